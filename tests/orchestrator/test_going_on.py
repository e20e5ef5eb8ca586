"""What a sweep goes on from when it was killed, and what it confirms."""

import json

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.results.store import Store
from orchestrator.sweeps.proposal import ListSource
from trainables.files import Folder

FULL = "OutOfMemoryError: CUDA out of memory"
DRAWN = {"lr": {"low": 0.01, "high": 0.5}}


def ids(rows):
    return sorted(row["trial_id"] for row in rows)


class Killed(BaseException):
    """As sudden as SIGKILL: nothing in the driver handles it."""


def kill_at(monkeypatch, countdown, *, late):
    """Kills at the countdown-th write to the disk: before it, or when it is done."""
    calls = [0]
    write = Folder.write

    def killing_write(folder, name, data):
        calls[0] += 1
        if calls[0] != countdown or late:
            write(folder, name, data)
        if calls[0] == countdown:
            raise Killed

    monkeypatch.setattr(Folder, "write", killing_write)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("repeats", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_a_kill_at_any_write_loses_and_doubles_nothing(
    tmp_path, monkeypatch, repeats, late, driver_of, study
):
    dimensions = {"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1, 0.05]}
    spec = study(dimensions, repeats=repeats)
    undisturbed = driver_of(tmp_path / "undisturbed", spec)
    undisturbed.run()
    expected = {row["config_key"]: row["val_acc"] for row in undisturbed.rows()}
    assert len(expected) == 2 * repeats
    for countdown in range(2, 400):  # the first write is the test's own study.yaml
        folder = tmp_path / f"{countdown}"
        with monkeypatch.context() as patch:
            kill_at(patch, countdown, late=late)
            try:
                driver_of(folder, spec).run()
                break
            except Killed:
                pass
        resumed = driver_of(folder, spec)
        resumed.run()
        rows = resumed.rows()
        assert {row["config_key"]: row["val_acc"] for row in rows} == expected
        assert len(rows) == len(expected)
        assert [(t.state, t.value) for t in resumed.source.optuna.trials] == [
            (t.state, t.value) for t in undisturbed.source.optuna.trials
        ]
        assert resumed.source.exhausted
    assert countdown > 10


@pytest.mark.parametrize("late", [False, True])
def test_a_kill_at_any_write_keeps_a_samplers_budget(tmp_path, monkeypatch, late, driver_of, study):
    dimensions = {"student": ["wrn_10_1", "wrn_10_1.0"], "batch_size": [16, 32, 64, 128]}
    spec = study(dimensions, sampler="random", trials=3)
    for countdown in range(2, 400):
        folder = tmp_path / f"{countdown}"
        with monkeypatch.context() as patch:
            kill_at(patch, countdown, late=late)
            try:
                killed = driver_of(folder, spec)
                killed.run()
                assert killed.log.of("answered")
                break
            except Killed:
                pass
        resumed = driver_of(folder, spec)
        resumed.run()
        assert len({row["config_key"] for row in resumed.rows()}) == len(resumed.rows()) == 3
        assert all(state.is_finished() for state in resumed.states)
    assert countdown > 12


def test_a_budget_is_kept_through_any_number_of_kills(tmp_path, driver_of, study):
    spec = study({"lr": {"low": 0.01, "high": 0.5}}, sampler="tpe", trials=7)
    for calls in (3, 4, 1, 5):
        driver_of(tmp_path, spec).run(calls)
    driver_of(tmp_path, spec).run()
    rows = Store(tmp_path, "s").read("trials").to_pylist()
    assert len(set(ids(rows))) == len(rows) == 7


def test_repeats_that_were_booked_before_a_kill_are_not_trained_again(tmp_path, driver_of, study):
    spec = study({"lr": [0.1, 0.05]}, repeats=3)
    killed = driver_of(tmp_path, spec)
    one, two = killed.start(), killed.start()
    killed.end(two)
    killed.epoch(one)
    resumed = driver_of(tmp_path, spec)
    resumed.run()
    assert "s-00001" not in resumed.log.of("started")
    assert ids(resumed.rows()) == [f"s-{number:05d}" for number in range(6)]
    assert len(resumed.source.optuna.trials) == 2


def test_killed_drivers_do_not_use_up_the_attempts(tmp_path, driver_of, study):
    spec = study({"lr": [0.1]})
    for _ in range(4):
        killed = driver_of(tmp_path, spec)
        killed.epoch(killed.start())
        killed.store.flush()
    driver = driver_of(tmp_path, spec)
    trial = driver.start()
    assert driver.jobs[trial]["attempt"] == 5
    driver.die(trial)
    driver.end(driver.start())
    assert driver.states == [TrialState.COMPLETE]


def test_the_larger_share_survives_a_killed_driver(tmp_path, driver_of, study):
    spec = study({"lr": [0.1]})
    killed = driver_of(tmp_path, spec, gpus=0.25)
    killed.end(killed.start(), status="failed", error=FULL)
    resumed = driver_of(tmp_path, spec, gpus=0.25)
    trial = resumed.start()
    assert (resumed.jobs[trial]["gpus"], resumed.jobs[trial]["attempt"]) == (0.5, 2)


def test_a_trial_that_failed_for_good_is_not_trained_again_after_a_kill(
    tmp_path, monkeypatch, driver_of, study
):
    spec = study({"lr": [0.1]})
    killed = driver_of(tmp_path, spec)
    # Killed between the row and the tell.
    monkeypatch.setattr(killed.source, "tell", lambda *args, **kwargs: None)
    killed.end(killed.start(), status="failed", error="Diverged: the loss became nan")
    resumed = driver_of(tmp_path, spec)
    assert resumed.start() == Searcher.FINISHED
    assert resumed.states == [TrialState.FAIL]
    assert resumed.book.booked == len(resumed.rows()) == 1


def test_a_second_confirmation_keeps_the_first_and_trains_what_is_new(tmp_path, driver_of, study):
    spec = study()
    configs_ = [spec.config({"lr": lr, "batch_size": 32}) for lr in (0.1, 0.05)]

    def groups(seeds):
        return [
            [c.replace(stage="confirm", seed=1000 + k, view_seed=1000 + k) for k in range(seeds)]
            for c in configs_
        ]

    for seeds, new in ((2, 4), (3, 2), (3, 0)):
        driver = driver_of(tmp_path, spec, source=ListSource(groups(seeds)), stage="confirm")
        driver.run()
        assert len(driver.log.of("started")) == new
    rows = driver.rows()
    assert len(rows) == 6
    assert len(set(ids(rows))) == 6
    assert len({row["config"] for row in rows}) == 6
    assert driver.book.booked == 6


def test_a_confirmation_that_was_killed_gives_no_id_to_another_config(tmp_path, driver_of, study):
    """Five seeds, killed before a row; then three: the numbers of the trials shift."""
    spec = study()

    def confirming(seeds):
        source = ListSource(
            [
                [
                    spec.config({"lr": lr, "batch_size": 32}).replace(
                        stage="confirm", seed=1000 + k, view_seed=1000 + k
                    )
                    for k in range(seeds)
                ]
                for lr in (0.1, 0.05)
            ]
        )
        return driver_of(tmp_path, spec, source=source, stage="confirm")

    killed = confirming(5)
    begun = [killed.start() for _ in range(10)]
    for trial in begun:
        killed.epoch(trial)
    killed.store.flush()
    before = {job["trial_id"]: job["config"] for job in killed.jobs.values()}
    resumed = confirming(3)
    resumed.run()
    after = {job["trial_id"]: job["config"] for job in resumed.jobs.values()}
    assert len(before) == 10
    assert len(after) == 6
    assert after.items() <= before.items(), "its own id, and thereby its own progress"


def test_a_proposal_is_in_the_store_before_its_trial_starts(tmp_path, driver_of, study):
    spec = study(DRAWN, sampler="random", trials=5, repeats=2)
    driver = driver_of(tmp_path, spec)
    for _ in range(10):
        trial = driver.start()
        proposals = Store(tmp_path, "s").read("proposals").to_pylist()
        drawn = [json.loads(row["params"]) for row in proposals]
        assert driver.jobs[trial]["config"]["lr"] in {values["lr"] for values in drawn}
        assert [row["number"] for row in proposals] == list(range(len(proposals)))
        assert all(row["state"] is None and row["proposed_at"] for row in proposals)


def test_what_was_told_stays_so_on_another_gpu(tmp_path, driver_of, study):
    """Told as failed where a trial had a whole GPU, it is not tried again where it has half."""
    spec = study({"lr": [0.1]})
    driver = driver_of(tmp_path, spec, gpus=1.0)
    driver.end(driver.start(), status="failed", error=FULL)
    driver.run()
    assert driver_of(tmp_path, spec, gpus=0.5).start() == Searcher.FINISHED


def test_the_search_does_not_count_confirmations_as_its_own(tmp_path, driver_of, study):
    spec = study()
    driver_of(tmp_path, spec).run()
    config = spec.config({"lr": 0.1, "batch_size": 32}).replace(stage="confirm", seed=1000)
    driver_of(tmp_path, spec, source=ListSource([[config]]), stage="confirm").run()
    assert driver_of(tmp_path, spec).book.booked == 6
