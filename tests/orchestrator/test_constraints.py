"""Constraints of a study: what is refused, what samplers are told, what results leave out."""

import json
import math

import pytest
import yaml
from here import said
from optuna.trial import TrialState

from orchestrator.cli import main
from orchestrator.query import trials
from orchestrator.results.bounds import bounds_of
from orchestrator.results.front import front
from orchestrator.results.store import Store
from orchestrator.results.tables import compression_table
from orchestrator.sweeps import checks, confirm
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.progress import Progress
from orchestrator.sweeps.source import OptunaSource
from search_spaces.load import parse_study
from trainables.errors import UserError
from trainables.job import Job
from trainables.runtimes.registry import RUNTIMES
from trainables.runtimes.runtime import Runtime

LR = {"lr": {"low": 0.01, "high": 1.0}}
REFUSED = {"status": "infeasible", "error": "not trained: params is 9, expected <= 5", "epochs": ()}


def refused(**violations):
    return REFUSED | {"val_acc": None, "violations": json.dumps(violations)}


# What is refused before anything starts


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"constraints": {"latncy_ms": "<= 5"}},
            "unknown constraint 'latncy_ms'; did you mean lat",
        ),
        ({"constraints": {"latency_ms": "5"}}, "study: constraints: constraint 'latency_ms': exp"),
        ({"constraints": {"latency_ms": 5}}, "constraint 'latency_ms': expected .*, got 5"),
        ({"constraints": ["latency_ms"]}, "study: constraints: expected keys and values"),
        (
            {"constraints": {"compression_params": ">= 4"}},
            "constraints.compression_params: needs a t",
        ),
        (
            {"constraints": {"peer_val_acc": ">= 0.5"}},
            "constraints.peer_val_acc: needs a method wi",
        ),
        ({"dimensions": {"latencies": ["eager"]}}, "dimensions.latencies: decides no result"),
        ({"fixed": {"latencies": "eagre"}}, "unknown runtime 'eagre'; did you mean eager"),
    ],
)
def test_mistakes_are_named(study, changes, line):
    with pytest.raises(UserError, match=line):
        study(**changes)


def test_a_constraint_needs_the_images_that_it_is_judged_by(study):
    spec = study(
        objectives={"params": "min"},
        constraints={"val_acc": ">= 0.9"},
        fixed={"val_fraction": 0.0, "student": "wrn_10_1"},
    )
    with pytest.raises(UserError, match=r"constraints\.val_acc: val_fraction is 0"):
        checks.check_search(spec, lambda: pytest.fail("reads the data"))


def test_a_study_measures_what_it_is_judged_by(study, tmp_path, monkeypatch):
    class Elsewhere(Runtime):
        def unavailable(self):
            return "no such machine"

    monkeypatch.setitem(RUNTIMES._own, "elsewhere", Elsewhere)
    for asked in (
        {"objectives": {"latency_elsewhere_b64_ms": "min"}},
        {"constraints": {"latency_elsewhere_ms": "<= 1"}},
    ):
        spec = study(**asked)
        config = spec.config({"lr": 0.1, "batch_size": 32})
        assert config.latencies == "eager+elsewhere"
        plan = Plan(spec, "s", str(tmp_path))
        with pytest.raises(UserError, match="latencies: runtime 'elsewhere' cannot run here: no s"):
            checks.check_names(plan)
        assert plan.key(config) == plan.key(study().config({"lr": 0.1, "batch_size": 32}))
    assert study().config({"lr": 0.1, "batch_size": 32}).latencies == "eager"


def test_jobs_know_the_constraints(study, tmp_path):
    spec = study(constraints={"params": "<= 5"})
    plan = Plan(spec, "s", str(tmp_path))
    job = plan.job(spec.config({"lr": 0.1, "batch_size": 32}), "s-00000", 1)
    assert job.constraints == {"params": "<= 5"}
    assert Job(**job.to_dict()) == job


# What samplers are told


def searched(driver, lr_of, rows_of):
    """Runs a sweep in which a config's rows follow from its learning rate."""
    while isinstance(tune_id := driver.start(), str) and tune_id in driver.jobs:
        driver.end(tune_id, **rows_of(lr_of(driver.jobs[tune_id])))
    return driver


def lr_of(job):
    return job["config"]["lr"]


def too_large(lr):
    return refused(params=lr - 0.3) if lr > 0.3 else {"val_acc": lr}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
@pytest.mark.parametrize("goals", [{"val_acc": "max"}, {"val_acc": "max", "params": "min"}])
def test_samplers_see_violations_also_after_a_restart(tmp_path, driver_of, study, sampler, goals):
    def rows_of(lr):
        return too_large(lr) | {"params": int(1000 * lr)}

    spec = study(LR, sampler=sampler, trials=20, constraints={"params": "<= 5"}, objectives=goals)
    first = driver_of(tmp_path, spec)
    for _ in range(12):
        tune_id = first.start()
        first.end(tune_id, **rows_of(lr_of(first.jobs[tune_id])))
    told = [(t.number, t.state, t.values, t.constraints) for t in first.source.optuna.trials]
    second = driver_of(tmp_path, spec)
    known = [(t.number, t.state, t.values, t.constraints) for t in second.source.optuna.trials]
    assert known == told
    assert {state for _, state, *_ in told} == {TrialState.COMPLETE}
    for trial in second.source.optuna.trials:
        lr = trial.params["lr"]
        beyond = lr - 0.3 if lr > 0.3 else int(1000 * lr) - 5
        assert trial.constraints == {"params": pytest.approx(beyond)}
        assert trial.values[0] == (-math.inf if lr > 0.3 else lr)
    searched(second, lr_of, rows_of)
    assert len(second.source.optuna.trials) == 20
    assert second.book.finished


def test_a_sampler_learns_to_keep_away(tmp_path, driver_of, study):
    """The objective draws it to large values, which nothing but the bound keeps it from."""

    def kept(name, **bounds):
        """The share of what is drawn behind the first ten that keeps it, over six seeds."""
        found = []
        for seed in range(6):
            spec = study(LR, sampler="tpe", sampler_seed=seed, trials=25, **bounds)
            driver = driver_of(tmp_path / name / str(seed), spec)
            searched(driver, lr_of, lambda lr: {"val_acc": lr, "params": int(10 + 100 * lr)})
            found += [trial.params["lr"] <= 0.3 for trial in driver.source.optuna.trials[10:]]
        return sum(found) / len(found)

    assert kept("told", constraints={"params": "<= 40"}) > 0.45
    assert kept("untold") < 0.15


def test_a_search_of_nothing_but_infeasible_configs_ends(tmp_path, driver_of, study):
    spec = study(LR, sampler="tpe", trials=15, constraints={"params": "<= 5"})
    driver = searched(driver_of(tmp_path, spec), lr_of, lambda lr: refused(params=4.0))
    assert driver.book.finished
    assert [row["status"] for row in driver.rows()] == ["infeasible"] * 15
    assert driver.store.read("epochs").num_rows == 0
    again = driver_of(tmp_path, spec)
    assert again.source.exhausted


def test_what_was_refused_is_not_measured_again(tmp_path, driver_of, study, monkeypatch):
    """In a small space: it ends when nothing new comes, and a restart knows it, too."""
    monkeypatch.setattr(OptunaSource, "PATIENCE", 8)
    space = {"lr": [0.1, 0.2]}
    spec = study(space, sampler="random", trials=50, constraints={"params": "<= 5"})
    first = driver_of(tmp_path, spec)
    tune_id = first.start()
    first.end(tune_id, **refused(params=4.0))
    second = searched(driver_of(tmp_path, spec), lr_of, lambda lr: refused(params=4.0))
    assert second.book.finished
    rows = second.rows()
    assert sorted(json.loads(row["config"])["lr"] for row in rows) == [0.1, 0.2]
    assert len(second.log.of("answered")) >= second.source.PATIENCE


def test_a_config_violates_where_the_mean_of_its_repeats_does(tmp_path, driver_of, study):
    def constraint_of(name, *rows):
        spec = study({"lr": [0.1]}, repeats=2, constraints={"latency_ms": "<= 5"})
        driver = driver_of(tmp_path / name, spec)
        for row in rows:
            driver.end(driver.start(), **row)
        (trial,) = driver.source.optuna.trials
        return trial.state, trial.constraints["latency_ms"]

    fast, slow = {"latency_ms": 4.0}, {"latency_ms": 5.5}
    assert constraint_of("kept", fast, slow) == (TrialState.COMPLETE, -0.25)
    assert constraint_of("beyond", slow, {"latency_ms": 5.1}) == (
        TrialState.COMPLETE,
        pytest.approx(0.3),
    )
    # One that was not even trained decides.
    assert constraint_of("refused", fast, refused(latency_ms=0.5)) == (TrialState.COMPLETE, 0.5)
    assert constraint_of("unknown", {"val_acc": 0.1}, {}) == (TrialState.COMPLETE, 0.0)


# What a sweep and its results say


def test_progress_counts_them(capsys):
    progress = Progress("s", total=4)
    with progress:
        for number, row in enumerate(
            [
                refused(params=4),
                {"status": "completed", "violations": "{}"},
                {"status": "completed"},
            ]
        ):
            progress.ended({"trial_id": f"s-{number}", "method": "student"} | row)
    shown = capsys.readouterr().out
    assert "3/4 trials" in shown
    assert "1 not trained for their costs, 1 beyond a constraint" in shown
    assert "failed" not in shown
    assert REFUSED["error"] in shown


@pytest.fixture
def results(tmp_path, recorded, trial_row):
    """A sweep: the best config is too slow in the mean of its seeds, another in one of them."""
    latencies = json.dumps({"eager": {"1": {"median_ms": 9.0}, "64": {"median_ms": 70.0}}})
    rows = [
        trial_row(0, "kd", 4, seed=0, val_acc=0.9, test_acc=0.9, latency_ms=4.0),
        trial_row(1, "kd", 4, seed=1, val_acc=0.9, test_acc=0.9, latency_ms=8.0),
        trial_row(2, "at", 4, seed=0, val_acc=0.8, test_acc=0.8, latency_ms=4.0),
        trial_row(3, "at", 4, seed=1, val_acc=0.8, test_acc=0.8, latency_ms=5.5),
        trial_row(4, "rkd", 4, val_acc=0.95, test_acc=0.9, latency_ms=4.0, latencies=latencies),
        trial_row(5, "sp", 4, val_acc=0.5, test_acc=0.5, latency_ms=4.0),
        trial_row(6, "sp", 4, status="infeasible", violations='{"latency_ms": 2}'),
    ]
    for row in rows:
        row["config"] = json.dumps(json.loads(row["config"]) | {"method": row["method"]})
    recorded(rows)
    content = {
        "teacher": {"model": "wrn_40_2"},
        "objectives": {"val_acc": "max"},
        "constraints": {"latency_ms": "<= 5", "val_acc": ">= 0.6", "latency_eager_b64_ms": "<= 60"},
    }
    Store(tmp_path / "results", "s").save_study(yaml.safe_dump(content))
    return str(tmp_path / "results")


def test_a_front_leaves_out_what_violates_in_the_mean(results, capsys):
    frame = trials(results, ["s"])
    found = front(frame, {"val_acc": "max"}, bounds_of(results, ["s"]))
    assert found["method"].tolist() == ["at"]
    assert found.attrs["violating"] == 3
    assert front(frame, {"val_acc": "max"})["method"].tolist() == ["rkd"]
    assert main(["front", "s", "--results", results]) == 0
    assert "3 configs violate constraints and are left out." in capsys.readouterr().out


def test_a_front_over_latencies_by_runtime(recorded, trial_row):
    def taken(median):
        return json.dumps({"eager": {"64": {"median_ms": median}}})

    frame = recorded(
        [
            trial_row(0, "kd", 4, seed=0, val_acc=0.9, latencies=taken(10.0)),
            trial_row(1, "kd", 4, seed=1, val_acc=0.9, latencies=taken(14.0)),
            trial_row(2, "at", 4, val_acc=0.8, latencies=taken(11.0)),
            trial_row(3, "sp", 4, val_acc=0.7, latencies=taken(13.0)),
            trial_row(4, "rkd", 4, val_acc=0.99),
        ]
    )
    found = front(frame, {"val_acc": "max", "latency_eager_b64_ms": "min"})
    latencies = dict(zip(found["method"], found["latency_eager_b64_ms"], strict=True))
    assert latencies == {"kd": 12.0, "at": 11.0}


def test_what_was_not_timed_is_said(recorded, trial_row, tmp_path, capsys):
    recorded([trial_row(0, val_acc=0.9)])
    command = ["front", "s", "--results", str(tmp_path / "results")]
    assert main([*command, "--objective", "latency_eager_ms=min"]) == 2
    assert "has latency_eager_ms: none was timed with that runtime" in capsys.readouterr().err


def test_a_table_leaves_them_out_and_says_so(results):
    frame = trials(results, ["s"])
    (panel,) = compression_table(frame, bounds=bounds_of(results, ["s"])).panels
    assert panel.methods == ["at"]
    assert panel.caption.endswith(" 3 configs violate constraints and are left out.")
    (whole,) = compression_table(frame).panels
    assert set(whole.methods) == {"at", "kd", "rkd", "sp"}
    assert "left out" not in whole.caption


def test_a_teacher_without_a_student_left_is_not_passed_over(results, recorded, trial_row):
    row = trial_row(8, "kd", 4, val_acc=0.9, test_acc=0.9, latency_ms=9.0, teacher="resnet56")
    frame = recorded([row])
    (panel,) = compression_table(frame, bounds=bounds_of(results, ["s"])).panels
    assert panel.caption.endswith(
        " 3 configs violate constraints and are left out. "
        "Of other teachers or data sets 1 config violates a constraint and is left out."
    )


def test_only_what_keeps_them_is_confirmed(results, caplog):
    groups = confirm.choose("s", results, seeds=1)
    assert {config.method for (config,) in groups} == {"at", "student"}
    assert "3 configs violate constraints and are left out" in caplog.text


def test_where_nothing_keeps_them_that_is_said(results, tmp_path):
    Store(tmp_path / "results", "s").save_study("constraints: {val_acc: '>= 0.99'}")
    line = "no config keeps all constraints: 4 configs violate constraints and are left out"
    frame = trials(results, ["s"])
    with pytest.raises(UserError, match=line):
        compression_table(frame, bounds=bounds_of(results, ["s"]))
    with pytest.raises(UserError, match=line):
        confirm.choose("s", results, seeds=1)


def test_contributions_are_read_by_json(results, capsys, recorded, trial_row):
    parts = [{"part": "teacher", "params": 100}, {"part": "prune", "params": 25}]
    recorded([trial_row(9, contributions=json.dumps(parts))], "t")
    sql = (
        "SELECT trial_id, part->>'part' AS part, (part->>'params')::INT AS params FROM "
        "(SELECT trial_id, unnest(contributions::JSON[]) AS part FROM trials) ORDER BY params"
    )
    assert main(["query", sql, "--csv", "--results", results]) == 0
    lines = capsys.readouterr().out.split()
    assert lines == ["trial_id,part,params", "s-00009,prune,25", "s-00009,teacher,100"]


@pytest.mark.slow
def test_a_sweep_trains_what_it_can_afford(tmp_path, cluster):
    study = tmp_path / "small.yaml"
    content = {
        "dataset": "digits",
        "fixed": {"epochs": 1, "train_fraction": 0.2, "precision": "fp32"},
        "dimensions": {"student": ["wrn_10_0.5", "resnet8"]},
        "objectives": {"val_acc": "max", "latency_eager_b64_ms": "min"},
        "constraints": {"params": "<= 60000"},
        "sampler": "grid",
    }
    study.write_text(yaml.safe_dump(content))
    results = str(tmp_path / "results")
    printed = said("run", str(study), "--max-concurrent", "1", *cluster, "--results", results)
    assert "1 trials completed, 0 failed, 1 not trained for their costs" in printed
    rows = {row["student"]: row for row in Store(results, "small").read("trials").to_pylist()}
    large, small = rows["resnet8"], rows["wrn_10_0.5"]
    assert (large["status"], small["status"]) == ("infeasible", "completed")
    assert json.loads(large["violations"]) == {"params": large["params"] - 60000}
    assert small["violations"] is None
    epochs = Store(results, "small").read("epochs").to_pylist()
    assert {row["trial_id"] for row in epochs} == {small["trial_id"]}


def test_kdsweep_trial_says_it(tmp_path, capsys):
    study = tmp_path / "small.yaml"
    fixed = {"student": "wrn_10_0.5", "epochs": 1, "train_fraction": 0.2, "precision": "fp32"}
    content = {"dataset": "digits", "fixed": fixed, "objectives": {"val_acc": "max"}}
    command = ["trial", str(study), "--results", str(tmp_path)]
    study.write_text(yaml.safe_dump(content | {"constraints": {"params": "<= 1000"}}))
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "not trained: params is " in shown
    assert "epoch" not in shown
    study.write_text(yaml.safe_dump(content | {"constraints": {"val_acc": ">= 0.999"}}))
    assert main(command) == 0
    assert "violates its study's constraints: val_acc is 0." in capsys.readouterr().out


def test_a_study_with_constraints_is_written_and_read_again():
    content = {"name": "s", "dataset": "digits", "constraints": {"latency_ms": "<= 5"}}
    spec = parse_study(content | {"objectives": {"val_acc": "max"}})
    assert parse_study(spec.model_dump(exclude_defaults=True)) == spec
