"""What a sweep goes on from: killed, confirmed, without its journal or its disk, renamed."""

import json
import shutil
import threading
import time
import uuid

import optuna
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pyarrow import fs
from ray.tune.search import Searcher

from orchestrator.results.store import Store
from orchestrator.sweeps.confirm import FIRST_SEED
from orchestrator.sweeps.journal import NAME
from orchestrator.sweeps.proposal import ListSource
from trainables.errors import UserError
from trainables.files import Folder

FULL = "OutOfMemoryError: CUDA out of memory"
DRAWN = {"lr": {"low": 0.01, "high": 0.5}}


def ids(rows):
    return sorted(row["trial_id"] for row in rows)


def configs(rows):
    return {row["trial_id"]: row["config"] for row in rows}


# Killed at any point


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
@pytest.mark.parametrize("repeats", [1, 2])
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


# Names


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


def begun(driver):
    """The config of every trial that a driver handed out."""
    return {job["trial_id"]: job["config"] for job in driver.jobs.values()}


@pytest.mark.parametrize("damage", ["missing", "behind", "rubbish", "unwritable"])
def test_the_journal_decides_nothing(tmp_path, damage, caplog, driver_of, study):
    spec = study(DRAWN, sampler="tpe", trials=6)
    whole = driver_of(tmp_path / "whole", spec)
    whole.run(7)
    shutil.copytree(tmp_path / "whole", tmp_path / "hurt")
    whole.source.keep()
    journal = tmp_path / "hurt" / "s" / NAME
    if damage == "behind":
        driver_of(tmp_path / "other", spec).source.keep()
        shutil.copy(tmp_path / "other" / "s" / NAME, journal)
    elif damage == "rubbish":
        journal.write_bytes(b"\0" * 100 + b"\n{")
    elif damage == "unwritable":
        journal.mkdir()
    expected, hurt = (driver_of(tmp_path / name, spec) for name in ("whole", "hurt"))
    for driver in (expected, hurt):
        driver.run()
        driver.source.keep()
        driver.source.keep()
    assert begun(hurt) == begun(expected)
    assert configs(hurt.rows()) == configs(expected.rows())
    warned = [record for record in caplog.records if NAME in record.message]
    assert len(warned) == (damage == "unwritable")
    if damage != "unwritable":
        storage = JournalStorage(JournalFileBackend(str(journal)))
        shown = optuna.load_study(study_name="s", storage=storage).trials
        assert [(t.number, t.state, t.params, t.values) for t in shown] == [
            (t.number, t.state, t.params, t.values) for t in hurt.source.optuna.trials
        ]


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


def test_a_store_that_lost_its_proposals_is_refused(tmp_path, driver_of, study):
    """Whether all of them, which a row tells, or one of a row."""
    spec = study(DRAWN, sampler="random", trials=3)
    driver_of(tmp_path / "all", spec).run()
    shutil.rmtree(tmp_path / "all" / "s" / "proposals")
    killed = driver_of(tmp_path / "one", spec)
    for _ in range(3):
        killed.start()
    sorted((tmp_path / "one" / "s" / "proposals").iterdir())[1].unlink()
    for lost in ("all", "one"):
        with pytest.raises(UserError, match=r"/s/proposals lacks some of what this sweep has"):
            driver_of(tmp_path / lost, spec)


def test_the_search_does_not_count_confirmations_as_its_own(tmp_path, driver_of, study):
    spec = study()
    driver_of(tmp_path, spec).run()
    config = spec.config({"lr": 0.1, "batch_size": 32}).replace(stage="confirm", seed=1000)
    driver_of(tmp_path, spec, source=ListSource([[config]]), stage="confirm").run()
    assert driver_of(tmp_path, spec).book.booked == 6


# A disk without space


def test_a_full_disk_pauses_the_sweep_and_loses_nothing(
    tmp_path, monkeypatch, caplog, driver_of, study
):
    driver = driver_of(tmp_path, study())
    write = Folder.write
    full = threading.Event()
    full.set()

    def failing_write(folder, name, data):
        if full.is_set():
            raise OSError(28, "No space left on device")
        write(folder, name, data)

    trial = driver.start()
    monkeypatch.setattr(Folder, "write", failing_write)
    threading.Timer(0.5, full.clear).start()
    began = time.monotonic()
    driver.end(trial)
    assert time.monotonic() - began >= 0.45
    assert ids(driver.rows()) == ["s-00000"]
    assert len(driver.store.read("epochs")) == 2
    assert driver.states[0] == TrialState.COMPLETE
    assert [r.message for r in caplog.records if "cannot be written" in r.message]
    driver.run()
    assert len(driver.rows()) == 6


def test_a_full_disk_lets_no_trial_start_that_is_not_in_the_store(
    tmp_path, monkeypatch, driver_of, study
):
    driver = driver_of(tmp_path, study())
    write, failures = Folder.write, []

    def failing_write(folder, name, data):
        if len(failures) < 3:
            failures.append(name)
            raise OSError(28, "No space left on device")
        write(folder, name, data)

    monkeypatch.setattr(Folder, "write", failing_write)
    driver.start()
    assert len(failures) == 3
    assert len(driver.store.read("proposals")) == 1


# In a bucket


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    return Folder(memory, f"bucket-{uuid.uuid4().hex}", is_local=False)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_driver_that_lost_its_disk_goes_on_with_the_same_proposals(
    tmp_path, monkeypatch, bucket, sampler, driver_of, study
):
    spec = study(DRAWN, sampler=sampler, trials=8, repeats=2)
    asked = {}
    for number, calls in enumerate((5, 9, 2, 10**6)):
        # Each time on another machine, with nothing but the bucket.
        monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / f"machine{number}"))
        driver = driver_of(bucket, spec)
        driver.run(calls)
        again = {name: config for name, config in begun(driver).items() if name in asked}
        assert again == {name: asked[name] for name in again}
        asked |= begun(driver)
        assert bool(again) == (number > 0)
        assert not (tmp_path / f"machine{number}").exists()
    assert configs(driver.rows()).keys() == asked.keys()
    assert len(driver.rows()) == len(asked) == 16
    assert len({config["lr"] for config in asked.values()}) == 8


# A folder that was renamed or copied


@pytest.mark.parametrize("calls", [3, 8, 13])
def test_a_renamed_and_a_copied_sweep_go_on_as_if_nothing_was(tmp_path, calls, driver_of, study):
    spec = study(repeats=2)
    whole = driver_of(tmp_path / "whole", spec)
    whole.run()
    driver_of(tmp_path / "cut", spec).run(calls)
    shutil.copytree(tmp_path / "cut" / "s", tmp_path / "cut" / "copy")
    (tmp_path / "cut" / "s").rename(tmp_path / "cut" / "t")
    for name in ("t", "copy"):
        resumed = driver_of(tmp_path / "cut", spec, name=name, began_as="s")
        resumed.run()
        assert {job["sweep"] for job in resumed.jobs.values()} <= {name}
        found = {row["trial_id"]: row for row in resumed.rows()}
        expected = {row["trial_id"]: row for row in whole.rows()}
        assert found.keys() == expected.keys()
        assert len(found) == len(resumed.rows()) == 12
        for trial_id, row in found.items():
            assert row["sweep"] == name
            assert row["config_key"] == expected[trial_id]["config_key"]
        assert resumed.source.exhausted


def test_a_renamed_sweep_is_confirmed_under_its_first_name(tmp_path, driver_of, study):
    spec = study()
    driver_of(tmp_path, spec).run()
    (tmp_path / "s").rename(tmp_path / "t")
    config = spec.config({}).replace(stage="confirm")
    groups = [[config.replace(seed=FIRST_SEED + k) for k in range(2)]]
    driver = driver_of(
        tmp_path, spec, source=ListSource(groups), stage="confirm", name="t", began_as="s"
    )
    driver.run()
    ids = {row["trial_id"] for row in driver.rows() if row["stage"] == "confirm"}
    assert len(ids) == 2
    assert all(name.startswith("s-confirm-") for name in ids)
