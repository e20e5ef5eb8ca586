"""OptunaSource after an interruption: it knows what it knew, and draws what it would have drawn."""

from collections import defaultdict

import pytest
from proposing import ALL, NAMED, Remembering, completed, pairs, proposals, study


@pytest.fixture
def source():
    """Gives the source of a sweep's folder, which goes on from the one before."""
    kept = defaultdict(list)
    return lambda folder, spec: Remembering(folder, spec, kept[folder])


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_resumed_sampler_does_not_draw_again_what_it_has_drawn(source, tmp_path, sampler):
    space = {"lr": {"low": 0.01, "high": 0.5}}
    drawn = []
    for trials in (4, 8):
        searched = source(
            tmp_path, study(fixed=NAMED, dimensions=space, sampler=sampler, trials=trials)
        )
        while (proposal := searched.ask()) is not None:
            drawn.append(proposal.configs[0].lr)
            searched.tell(proposal.number, [completed(len(drawn))], answered=False)
    assert len(set(drawn)) == len(drawn) == 8


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_killed_sampler_goes_on_as_it_would_have(source, tmp_path, sampler):
    space = {
        "lr": {"low": 0.01, "high": 0.5},
        "momentum": {"low": 0.3, "high": 0.9, "step": 0.1},
        "epochs": {"low": 2, "high": 9},
    }
    spec = study(fixed=NAMED, dimensions=space, sampler=sampler, trials=24)

    def drawn(folder, interrupted):
        """One after the other; the driver dies now and then, once while a trial runs."""
        searched, found = source(folder, spec), []
        while (proposal := searched.ask()) is not None:
            found.append(proposal.configs[0].to_json())
            if proposal.number in interrupted:
                searched = source(folder, spec)
            accuracy = len(found) * 37 % 11 / 11
            searched.tell(proposal.number, [completed(val_acc=accuracy)], answered=False)
            if proposal.number in interrupted:
                searched = source(folder, spec)
        return found

    undisturbed = drawn(tmp_path / "a", ())
    assert drawn(tmp_path / "b", (3, 11, 17)) == undisturbed
    assert len(set(undisturbed)) == 24
    other = source(tmp_path / "c", spec.model_copy(update={"sampler_seed": 1}))
    assert not {p.configs[0].to_json() for p in proposals(other)} & {*undisturbed}


def test_asked_proposals_come_back_as_they_were(source, tmp_path):
    spec = study(
        sampler="random",
        trials=4,
        repeats=2,
        dimensions={"method": ["student", "kd"], "lr": {"low": 0.01, "high": 0.5}},
        fixed={},
    )
    before = source(tmp_path, spec)
    asked = proposals(before, 3)
    before.tell(1, [completed(2), completed(3)], answered=False)
    after = source(tmp_path, spec)
    assert after.unfinished() == [asked[0], asked[2]]
    assert not after.exhausted
    after.tell(0, [completed(0), completed(1)], answered=False)
    after.tell(2, [completed(4), completed(5)], answered=False)
    assert len(proposals(after)) == 1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_optuna_knows_after_an_interruption_what_it_knew_before(source, tmp_path, sampler):
    spec = study(
        sampler=sampler,
        trials=20,
        dimensions={
            "method": ["student", "kd"],
            "factor": [2, 4, 9],
            "kd.alpha": {"low": 0.1, "high": 0.9},
            "lr": {"low": 0.001, "high": 0.5, "log": True},
            "momentum": {"low": 0.3, "high": 0.9, "step": 0.1},
            "epochs": {"low": 2, "high": 9},
            "flip": [True, False],
        },
        points=[{"method": "kd", "factor": 9, "kd.alpha": 0.25}],
        cover=["method", "factor"],
        objectives={"val_acc": "max", "compression_params": "max"},
    )
    before = source(tmp_path, spec)
    asked = proposals(before, 12)
    for number, status in enumerate(("completed", "failed", "stopped", "completed", "completed")):
        row = completed(number, status=status, val_acc=0.1 * number)
        before.tell(number, [row], answered=number == 3)
    after = source(tmp_path, spec)
    facts = ("number", "state", "values", "params", "distributions", "user_attrs", "datetime_start")
    old, new = (
        [[getattr(trial, fact) for fact in facts] for trial in known.optuna.trials]
        for known in (before, after)
    )
    assert new == old
    noted = [[trial.system_attrs for trial in known.optuna.trials] for known in (before, after)]
    assert noted[0] == noted[1]
    assert after.unfinished() == asked[5:]


def test_the_points_that_were_not_asked_for_are_asked_for_after_a_kill(source, tmp_path):
    spec = study()
    assert pairs(proposals(source(tmp_path, spec), 4)) == ALL[:4]
    after = source(tmp_path, spec)
    assert pairs(after.unfinished()) == ALL[:4]
    assert pairs(proposals(after)) == ALL[4:]


def test_answers_count_neither_towards_the_budget_nor_as_progress_of_a_grid(source, tmp_path):
    grid = source(tmp_path / "grid", study())
    for proposal in proposals(grid):
        grid.tell(proposal.number, [completed()], answered=proposal.number % 2 == 1)
    again = source(tmp_path / "grid", study())
    assert (grid.total, again.total, again.replaces, again.exhausted) == (6, 3, False, True)

    spec = study(sampler="random", trials=2, dimensions={"lr": [0.1, 0.2, 0.3]}, fixed={})
    random = source(tmp_path / "random", spec)
    for answered in (False, True, True, False):
        random.tell(random.ask().number, [completed()], answered=answered)
    assert random.ask() is None
    again = source(tmp_path / "random", spec)
    assert (again.total, again.replaces, again.exhausted) == (2, True, True)
