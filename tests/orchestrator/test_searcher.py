"""A sweep's book as Tune calls it: who is trained, who is answered, what is booked and told."""

import json
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.results.store import Store
from orchestrator.sweeps.searcher import Starts
from trainables.job import PROGRESS, trial_folder

FULL = "OutOfMemoryError: CUDA out of memory"


def ids(rows):
    return sorted(row["trial_id"] for row in rows)


def configs(rows):
    return {row["trial_id"]: row["config"] for row in rows}


def job_id(driver, tune_id):
    return driver.jobs[tune_id]["trial_id"]


# How trials end


def test_a_grid_is_trained_once_each_and_told_its_values(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study())
    driver.run()
    rows = driver.rows()
    assert ids(rows) == [f"s-{number:05d}" for number in range(6)]
    assert len(set(configs(rows).values())) == 6
    assert driver.book.finished
    assert driver.source.exhausted
    told = {t.user_attrs["trial_ids"][0]: t.value for t in driver.source.optuna.trials}
    assert told == {row["trial_id"]: row["val_acc"] for row in rows}
    epochs = driver.store.read("epochs").to_pylist()
    assert len({(row["trial_id"], row["epoch"]) for row in epochs}) == len(epochs) == 12


def test_every_ending_is_told_and_nothing_stays_running(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study())
    for ending in (
        {},
        {"status": "stopped", "epochs": (1,)},
        {"status": "failed", "error": "Diverged: the loss became nan in epoch 1, term ce"},
        {"val_acc": float("nan")},
        {"val_acc": None},
    ):
        driver.end(driver.start(), **ending)
    last = driver.start()
    for _ in range(3):
        driver.die(last)
        last = driver.start()
    complete, pruned, fail = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert driver.states == [complete, pruned, fail, fail, fail, fail]
    assert [row["status"] for row in driver.rows()] == [
        *("completed", "stopped", "failed", "completed", "completed"),
        *("failed", "failed", "failed"),
    ]
    assert last == Searcher.FINISHED


def test_a_student_that_cannot_be_built_is_infeasible_and_told(tmp_path, driver_of, study):
    spec = study({"student": ["wrn_10_1", "vgg8"]})
    driver = driver_of(tmp_path, spec)
    driver.run()
    assert driver.states == [TrialState.COMPLETE, TrialState.FAIL]
    (row,) = (row for row in driver.rows() if row["status"] == "infeasible")
    assert row["trial_id"] == "s-00001"
    assert "vgg8" in row["error"]
    assert json.loads(row["config"])["student"] == "vgg8"


def test_a_row_is_on_disk_before_its_value_is_told(tmp_path, monkeypatch, driver_of, study):
    driver = driver_of(tmp_path, study())
    seen = []
    tell = driver.source.optuna.tell

    def spying_tell(trial, *args, **kwargs):
        seen.append((trial.number, ids(Store(tmp_path, "s").read("trials").to_pylist())))
        return tell(trial, *args, **kwargs)

    monkeypatch.setattr(driver.source.optuna, "tell", spying_tell)
    driver.run()
    assert len(seen) == 6
    assert all(f"s-{number:05d}" in booked for number, booked in seen)


def test_results_of_a_trial_that_tune_gave_up_are_ignored(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study())
    trial = driver.start()
    driver.end(trial)
    driver.end(trial)
    assert len(driver.rows()) == 1
    driver.searcher.on_trial_complete("unheard of", None, error=True)


def test_progress_is_kept_until_the_trial_is_booked_for_good(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    trial = driver.start()
    folder = trial_folder(str(tmp_path), "s", "s-00000")
    folder.write(PROGRESS, b"half a training")
    driver.die(trial)
    assert folder.exists(PROGRESS)
    driver.end(driver.start())
    assert not folder.exists(PROGRESS)


def test_what_was_told_is_in_the_store(tmp_path, driver_of, study):
    spec = study({"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1]}, repeats=2)
    driver = driver_of(tmp_path, spec)
    driver.run()
    first, second = driver.store.read("proposals").sort_by("number").to_pylist()
    assert (first["state"], second["state"]) == ("trained", "answered")
    assert json.loads(first["trial_ids"]) == json.loads(second["trial_ids"]) == ids(driver.rows())
    again = driver_of(tmp_path, spec)
    assert again.source.exhausted
    assert again.start() == Searcher.FINISHED
    assert again.log.events == []
    assert [trial.user_attrs for trial in again.source.optuna.trials] == [
        trial.user_attrs for trial in driver.source.optuna.trials
    ]


def test_a_trial_starts_when_it_has_a_worker(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    assert driver.searcher.suggest("tune1") is not None
    assert driver.log.of("started") == []
    trial = SimpleNamespace(trial_id="tune1")
    Starts(driver.searcher).on_trial_start(1, [trial], trial)
    assert driver.log.of("started") == ["s-00000"]


def test_what_a_worker_notes_is_passed_on(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    trial = driver.start()
    result = driver.result(trial, [1], "stopped") | {"notes": ["progress.pt is damaged"]}
    driver.searcher.on_trial_result(trial, result)
    assert driver.log.of("noted") == ["s-00000: progress.pt is damaged"]


# Twins


def test_an_equal_config_is_answered_by_the_finished_one(tmp_path, driver_of, study):
    # Two names of one network: the second is not trained.
    spec = study({"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1]})
    driver = driver_of(tmp_path, spec)
    driver.end(driver.start())
    assert driver.start() == Searcher.FINISHED
    assert driver.log.of("answered") == ["s-00001"]
    assert ids(driver.rows()) == ["s-00000"]
    first, second = driver.source.optuna.trials
    assert second.value == first.value
    assert second.user_attrs["trial_ids"] == ["s-00000"]


def test_an_equal_config_waits_for_the_running_one(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1]}))
    running = driver.start()
    assert driver.start() is None
    assert not driver.book.finished
    driver.end(running)
    assert driver.start() == Searcher.FINISHED
    assert driver.states == [TrialState.COMPLETE] * 2
    assert ids(driver.rows()) == ["s-00000"]


def test_an_equal_config_runs_itself_if_the_first_fails(tmp_path, driver_of, study):
    students = ["wrn_10_1", "wrn_10_1.0", "wrn_10_1.00"]
    driver = driver_of(tmp_path, study({"student": students, "lr": [0.1]}))
    running = driver.start()
    assert driver.start() is None
    driver.end(running, status="failed", error="Diverged: the loss became inf")
    second = driver.start()
    assert job_id(driver, second) == "s-00001"
    assert driver.start() is None
    driver.end(second)
    assert driver.start() == Searcher.FINISHED
    assert driver.states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert len(driver.rows()) == 2


def test_answers_cost_no_budget_and_an_exhausted_space_ends(tmp_path, driver_of, study):
    spec = study({"lr": [0.1, 0.05]}, sampler="random", trials=5)
    driver = driver_of(tmp_path, spec)
    driver.source.PATIENCE = 8
    driver.run()
    assert driver.book.finished
    assert len(driver.rows()) == 2
    told = driver.source.optuna.trials
    assert len(told) > 8
    assert all(trial.state == TrialState.COMPLETE for trial in told)
    # And a further driver sees at once that there is nothing left.
    after = driver_of(tmp_path, spec).source
    after.PATIENCE = 8
    assert after.exhausted


def test_a_sampler_replaces_what_was_answered(tmp_path, driver_of, study):
    spec = study({"batch_size": [16, 32, 64, 128]}, sampler="random", trials=4)
    driver = driver_of(tmp_path, spec)
    driver.run()
    assert len({row["config"] for row in driver.rows()}) == len(driver.rows()) == 4
    assert driver.log.of("answered")  # seed 0 draws a value twice before it has drawn all


# Repeats


def test_repeats_train_every_seed_once_and_tell_their_mean(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1, 0.05]}, repeats=3))
    driver.run()
    rows = driver.rows()
    assert ids(rows) == [f"s-{number:05d}" for number in range(6)]
    seeds = [json.loads(config)["seed"] for _, config in sorted(configs(rows).items())]
    assert seeds == [0, 1, 2, 0, 1, 2]
    means = [trial.value for trial in driver.source.optuna.trials]
    values = [row["val_acc"] for row in sorted(rows, key=lambda row: row["trial_id"])]
    assert means == pytest.approx([sum(values[:3]) / 3, sum(values[3:]) / 3])


def test_one_failed_repeat_fails_the_config(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}, repeats=2))
    first, second = driver.start(), driver.start()
    driver.end(first)
    assert driver.states == [TrialState.RUNNING]
    driver.end(second, status="failed", error="Diverged: the loss became nan")
    assert driver.states == [TrialState.FAIL]
