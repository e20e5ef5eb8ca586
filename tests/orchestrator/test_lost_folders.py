"""What a sweep goes on from that lost its journal, its proposals or its disk, or was renamed."""

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

from orchestrator.sweeps.confirm import FIRST_SEED
from orchestrator.sweeps.journal import NAME
from orchestrator.sweeps.proposal import ListSource
from trainables.errors import UserError
from trainables.files import Folder

DRAWN = {"lr": {"low": 0.01, "high": 0.5}}


def ids(rows):
    return sorted(row["trial_id"] for row in rows)


def configs(rows):
    return {row["trial_id"]: row["config"] for row in rows}


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
        machine = tmp_path / f"machine{number}"
        monkeypatch.setenv("KDSWEEP_CACHE", str(machine))
        driver = driver_of(bucket, spec)
        driver.run(calls)
        again = {name: config for name, config in begun(driver).items() if name in asked}
        assert again == {name: asked[name] for name in again}
        asked |= begun(driver)
        assert bool(again) == (number > 0)
        assert {path.name for path in machine.glob("*")} <= {"data"}, "images may be decoded there"
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
