"""OptunaSource: what a study proposes, in which order, and after how long it stops."""

from collections import defaultdict

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from proposing import ALL, NAMED, Remembering, completed, pairs, proposals, study

from trainables.trial_settings import MAX_SEED


@pytest.fixture
def source():
    """Gives the source of a sweep's folder, which goes on from the one before."""
    kept = defaultdict(list)
    return lambda folder, spec: Remembering(folder, spec, kept[folder])


def test_a_grid_proposes_every_combination_once_in_the_written_order(source, tmp_path):
    found = proposals(source(tmp_path, study()))
    assert pairs(found) == ALL
    assert [p.number for p in found] == list(range(6))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "grid"])
def test_steps_are_round_in_configs_and_in_the_journal(source, tmp_path, sampler):
    steps = {"lr": {"low": 0.1, "high": 0.7, "step": 0.1}}
    steps |= {"batch_size": {"low": 16, "high": 64, "step": 16}}
    searched = source(tmp_path, study(fixed=NAMED, dimensions=steps, sampler=sampler, trials=25))
    for number in range(25):
        proposal = searched.ask()
        lr = proposal.configs[0].lr
        searched.tell(proposal.number, [completed(number, val_acc=lr)], answered=False)
    told = {trial.params["lr"] for trial in searched.optuna.trials if trial.state.is_finished()}
    assert len(told) > 3
    assert told <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}  # to the last digit


def test_an_older_range_that_never_reached_its_end_goes_on(source, tmp_path):
    """What Optuna had noted of it is what it is given now."""
    steps = {"lr": {"low": 0.1, "high": 0.75, "step": 0.1}}
    first = source(tmp_path, study(fixed=NAMED, dimensions=steps, sampler="random", trials=9))
    proposal = first.ask()
    with pytest.warns(UserWarning, match="is not divisible"):
        first.optuna.ask({"momentum": FloatDistribution(0.1, 0.75, step=0.1)})
    noted = first.optuna.trials[0].distributions["lr"]
    assert noted == first.optuna.trials[1].distributions["momentum"]
    assert proposal.configs[0].lr <= 0.7


def test_the_sampler_takes_every_seed(source, tmp_path):
    last = source(tmp_path, study(sampler="tpe", trials=3, sampler_seed=MAX_SEED))
    proposals(last)
    again = source(tmp_path, study(sampler="tpe", trials=6, sampler_seed=MAX_SEED))
    assert len(proposals(again)) == 3


@pytest.mark.parametrize("trials", [None, 5])
def test_a_study_without_dimensions_proposes_its_one_config(source, tmp_path, trials):
    alone = source(
        tmp_path, study(fixed=NAMED, dimensions={}, sampler="tpe", trials=trials, repeats=2)
    )
    assert alone.total == 2
    (only,) = proposals(alone)
    assert [config.seed for config in only.configs] == [0, 1]
    alone.tell(only.number, [completed(0), completed(1)], answered=False)
    assert source(
        tmp_path, study(fixed=NAMED, dimensions={}, sampler="tpe", trials=trials)
    ).exhausted


def test_a_setting_of_a_term_exists_only_where_the_method_has_it(source, tmp_path):
    dimensions = {"method": ["student", "kd"], "factor": [4], "temperature": [2, 8]}
    grid = source(tmp_path, study(dimensions=dimensions))
    found = proposals(grid)
    assert [p.configs[0].terms.get("kd.temperature") for p in found] == [None, 2.0, 8.0]
    assert "temperature" not in grid.optuna.trials[0].params


def test_the_cover_and_the_points_come_before_the_sampler(source, tmp_path):
    spec = study(
        sampler="tpe",
        trials=9,
        dimensions={
            "method": ["student", "kd"],
            "factor": [2, 4, 9],
            "kd.alpha": {"low": 0.1, "high": 0.9},
        },
        points=[{"method": "kd", "factor": 9, "kd.alpha": 0.25}],
        cover=["method", "factor"],
    )
    found = proposals(source(tmp_path, spec))
    assert len(found) == 9
    assert found[0].configs[0].terms["kd.alpha"] == 0.25
    assert pairs(found[1:7]) == ALL
    assert all(0.1 <= p.configs[0].terms.get("kd.alpha", 0.5) <= 0.9 for p in found)


def test_points_alone(source, tmp_path):
    points = [{"method": "kd", "factor": 2}, {"method": "student", "factor": 9}]
    found = proposals(source(tmp_path, study(sampler="points", points=points)))
    assert pairs(found) == [("kd", 2.0), ("student", 9.0)]


def test_a_budget_cuts_a_grid(source, tmp_path):
    cut = source(tmp_path, study(trials=4))
    assert pairs(proposals(cut)) == ALL[:4]
    assert cut.total == 4


def test_repeats_differ_in_their_seeds_alone(source, tmp_path):
    (proposal, *_) = proposals(source(tmp_path, study(repeats=3)))
    assert [(c.seed, c.view_seed) for c in proposal.configs] == [(0, 0), (1, 1), (2, 2)]
    assert len({c.replace(seed=0, view_seed=0).to_json() for c in proposal.configs}) == 1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_sampler_draws_the_same_configs_from_the_same_seed(source, tmp_path, sampler):
    dimensions = {"lr": {"low": 0.01, "high": 0.5, "log": True}, "epochs": {"low": 2, "high": 9}}
    spec = study(sampler=sampler, trials=5, dimensions=dimensions, fixed={})
    first, second = (proposals(source(tmp_path / name, spec)) for name in "ab")
    assert [p.configs for p in first] == [p.configs for p in second]
    assert len({p.configs[0].to_json() for p in first}) == 5
    assert all(p.configs[0].epochs in range(2, 10) for p in first)


def test_values_and_directions_reach_optuna(source, tmp_path):
    spec = study(objectives={"val_acc": "max", "latency_ms": "min"})
    told = source(tmp_path, spec)
    for proposal, latency in zip(proposals(told, 2), (3.0, 1.0), strict=True):
        told.tell(proposal.number, [completed(latency_ms=latency)], answered=False)
    best = told.optuna.best_trials
    assert [trial.values for trial in best] == [[0.5, 1.0]]


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (completed(), TrialState.COMPLETE),
        (completed(status="stopped"), TrialState.PRUNED),
        (completed(status="failed"), TrialState.FAIL),
        (completed(status="infeasible", val_acc=None), TrialState.FAIL),
        (completed(val_acc=float("nan")), TrialState.FAIL),
        (completed(compression_params=None), TrialState.FAIL),
    ],
)
def test_what_a_row_becomes(source, tmp_path, row, state):
    told = source(tmp_path, study())
    told.tell(told.ask().number, [row], answered=False)
    assert told.optuna.trials[0].state == state


PAIRS = {
    "wrn_16_2->wrn_10_1": {"lr": 0.01},
    "resnet14->resnet8": None,
}


def paired(**changes):
    content = {"pairs": PAIRS, "teacher": None, "fixed": {"epochs": 2}}
    content["dimensions"] = {"method": ["student", "kd"], "kd.alpha": {"low": 0.1, "high": 0.9}}
    return study(**content | changes)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_sampler_draws_the_pair_as_well(source, tmp_path, sampler):
    spec = paired(sampler=sampler, trials=12, cover=["pair", "method"])
    asked = source(tmp_path, spec)
    found = []
    for number in range(12):
        found.append(asked.ask())
        asked.tell(found[-1].number, [completed(number)], answered=False)
    assert asked.ask() is None
    seen = {(p.configs[0].teacher, p.configs[0].student, p.configs[0].method) for p in found[:4]}
    assert len(seen) == 4
    networks = {(p.configs[0].teacher, p.configs[0].student, p.configs[0].lr) for p in found}
    assert networks == {("wrn_16_2", "wrn_10_1", 0.01), ("resnet14", "resnet8", 0.05)}
    drawn = [trial.params for trial in asked.optuna.trials]
    assert {params["pair"] for params in drawn} == set(PAIRS)
    assert all(("kd.alpha" in params) == (params["method"] == "kd") for params in drawn)


def test_an_interrupted_proposal_keeps_its_pair(source, tmp_path):
    spec = paired(sampler="random", trials=3)
    config = source(tmp_path, spec).ask().configs[0]
    (left,) = source(tmp_path, spec).unfinished()
    assert left.configs[0] == config
