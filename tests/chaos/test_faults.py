"""Faults one by one: a worker dies, the driver is told to stop or killed, two drivers meet."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.query import trials
from trainables.attribution.map_settings import MapSettings
from trainables.data.sources import load_dataset
from trainables.teachers.map_file import MapFile
from trainables.teachers.maps import map_key, map_path
from trainables.teachers.teacher import find_teacher

STEPS = 30
COUNT = "attribution maps of wrn_16_1: "

ATTEMPTS = "SELECT trial_id, attempt, status FROM trials_all ORDER BY trial_id, attempt"
EPOCHS = """
    SELECT first.epoch, first.seconds = last.seconds AS same
    FROM epochs_all first JOIN epochs last USING (trial_id, epoch)
    WHERE trial_id = 'f-00000' AND first.attempt = 1 AND last.attempt > 1 ORDER BY epoch
"""
RESUME = "go on with `kdsweep resume f`\n"
BUGGY = """
import sys
from orchestrator import cli
from orchestrator.results import store

def flush(self):
    raise RuntimeError("a bug of ours")

store.Store.maybe_flush = flush
sys.exit(cli.main())
"""


def ended_in_order(driver, end, still_alive):
    """Ends a driver; it says within ten seconds how to go on, and nothing of it is left."""
    processes = driver.processes()
    began = time.monotonic()
    end()
    assert driver.wait() == 1
    assert time.monotonic() - began < 10
    assert driver.out[-1] == "interrupted; " + RESUME
    assert still_alive(processes) == []


@pytest.mark.slow
def test_dead_workers_and_drivers_cost_nothing(start, study, kdsweep, rows, cluster, tmp_path):
    """And change nothing: the table is that of a sweep that was left alone."""
    alone, results = (["--results", str(tmp_path / name)] for name in ("alone", "results"))
    folder = Path(tmp_path, "results", "f")
    path = study("f", dimensions={"method": ["kd", "at"]})
    settings = ["--set", "factor=2"]
    driver = start("run", path, *settings, "--max-concurrent", "1", *results)

    # The worker that trains the teacher is killed, one in its first trial, and then the driver and
    # all that it started.
    driver.wait_for("epoch 1/3")
    (worker,) = driver.workers("TeacherTraining")
    os.kill(worker, signal.SIGKILL)
    driver.wait_for("training the teacher", 2)
    kill_in_its_first_trial(driver, folder)
    driver.wait_for("1/2 trials")
    driver.kill()
    (folder / "optuna.journal").write_bytes(b"of another machine")

    # It ends, and then there is nothing left to do.
    driver = start("resume", "f", "--max-concurrent", "1", *results)
    assert driver.wait() == 0
    assert driver.err == []
    (line,) = kdsweep("resume", "f", *results).splitlines()
    assert "nothing left to do" in line
    gone_on(kdsweep, folder, results, trials=2)
    kdsweep("teacher", "train", path, *settings, *alone)
    kdsweep("run", path, *settings, "--max-concurrent", "1", *cluster, *alone)
    equal(kdsweep, rows, alone, results)


@pytest.mark.slow
def test_who_is_told_to_stop_ends_in_order(start, study, still_alive, tmp_path, capsys):
    """All processes of a sweep are, as batch systems do it, while another driver is refused."""
    path, results = study("f"), ["--results", str(tmp_path / "results")]
    driver = start("run", path, *results)
    driver.wait_for("training the teacher")
    assert main(["resume", "f", *results]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "kdsweep: sweep 'f' is being run by another process\n")
    ended_in_order(driver, lambda: os.killpg(driver.process.pid, signal.SIGTERM), still_alive)
    assert driver.err == []


@pytest.mark.soak
def test_dead_maps_heads_and_groups_cost_nothing(
    start, study, kdsweep, rows, still_alive, tmp_path, monkeypatch
):
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    alone, results = (["--results", str(tmp_path / name)] for name in ("alone", "results"))
    folder = Path(tmp_path, "results", "f")
    path = study("f", dimensions={"batch_size": [16, 32], "method": ["kd", "ig"]})
    settings = ["--set", "factor=2", "--set", f"ig.steps={STEPS}", "--max-concurrent", "1"]
    driver = start("run", path, *settings, *results)

    # The worker that computes attribution maps is killed, and later the driver and all else.
    driver.wait_for(f"{COUNT}256 of 1,438")
    for pid in driver.workers("MapComputing"):
        os.kill(pid, signal.SIGKILL)
    driver.wait_for("attribution maps: the worker process died; see Ray")
    key = key_of_maps(tmp_path / "results")
    missing = parts_missing(key)
    driver.wait_until(lambda: len(parts_missing(key)) < len(missing), "another part")
    driver.kill()
    left = parts_missing(key)
    assert 0 < len(left) < len(missing) < key.parts, "the kill came too late"

    # Maps go on where they were.
    driver = start("resume", "f", "--max-concurrent", "1", *results)
    kill_in_its_first_trial(driver, folder)
    counts = [line for line in driver.out if COUNT in line and " of 1,438" in line]
    with MapFile(map_path(key), key) as kept:
        count = key.images - sum(len(kept.images(part)) for part in left[1:])
        assert kept.complete()
    assert counts[0].strip() == f"{COUNT}{count:,} of 1,438", driver.out
    assert not [line for line in driver.out if "damaged" in line]

    # All its processes are told to stop while it tries again.
    driver.wait_for("1/4 trials")
    ended_in_order(driver, lambda: os.killpg(driver.process.pid, signal.SIGTERM), still_alive)
    assert driver.err == []

    # Ray's head is killed.
    driver = start("resume", "f", "--max-concurrent", "1", *results)
    driver.wait_for("2/4 trials")
    (head,) = driver.programs("gcs_server")
    ended_in_order(driver, lambda: os.kill(head, signal.SIGKILL), still_alive)
    assert driver.err[0] == f"kdsweep: Ray's head (process {head}) is gone; the sweep ends\n"

    # It is killed with all that it started, while it trains as much at once as there is room for.
    seed = random.randrange(2**32)
    print(f"the moment of the kill follows from seed {seed}")
    driver = start("resume", "f", *results)
    driver.wait_until(lambda: bool(driver.workers("DistillTrainable")), "a trial")
    time.sleep(random.Random(seed).uniform(0, 1.0))
    driver.kill()

    driver = start("resume", "f", "--max-concurrent", "1", *results)
    assert driver.wait() == 0
    gone_on(kdsweep, folder, results, trials=4)
    maps = [json.loads(text) for text in trials(tmp_path / "results")["attribution_maps"].dropna()]
    assert [(one["steps"], one["alignment"]) for one in maps] == [(STEPS, "aligned")] * 2
    assert start("run", path, *settings, *alone).wait() == 0  # with the maps that are there now
    equal(kdsweep, rows, alone, results)


def kill_in_its_first_trial(driver, folder):
    """Of the only worker, after some checkpoints."""
    progress = folder / "checkpoints" / "f-00000" / "progress.pt"
    driver.wait_until(progress.exists, "the first checkpoint")
    first = progress.stat().st_mtime_ns
    driver.wait_until(lambda: progress.stat().st_mtime_ns > first, "the second checkpoint")
    (worker,) = driver.workers("DistillTrainable")
    os.kill(worker, signal.SIGKILL)
    driver.wait_for("f-00000: the worker process died")


def gone_on(kdsweep, folder, results, trials):
    """The first trial lost its worker behind a checkpoint and went on from there; all are done."""
    attempts = [
        line.split(",") for line in kdsweep("query", ATTEMPTS, "--csv", *results).split()[1:]
    ]
    assert attempts[0] == ["f-00000", "1", "failed"]
    assert [(trial, status) for trial, _, status in attempts[1:]] == [
        (f"f-{number:05d}", "completed") for number in range(trials)
    ]
    # What the first attempt had done was not done again: the very same measurements came back.
    epochs = kdsweep("query", EPOCHS, "--csv", *results).split()[1:]
    # Of the second one the worker may have died between its checkpoint and its report.
    assert epochs[0] == "1,True"
    assert "2,False" not in epochs
    files = [path.name for path in (folder / "checkpoints").rglob("*") if path.is_file()]
    assert files == ["student.safetensors"] * trials


def equal(kdsweep, rows, alone, results):
    """A sweep and the same one that was left alone."""
    expected = rows(*alone)
    assert all(",completed," in row for row in expected)
    assert rows(*results) == expected
    tables = [kdsweep("table", "f", "--format", "csv", *place) for place in (alone, results)]
    assert tables[0] == tables[1]


def key_of_maps(results):
    """Of the file of attribution maps of the only teacher."""
    (file,) = (results / "teachers").glob("*.safetensors")
    card = find_teacher(str(results), file.stem)
    return map_key(card.fingerprint, load_dataset("digits"), MapSettings(steps=STEPS))


def parts_missing(key):
    """Parts of a file without a map, by their numbers."""
    with MapFile(map_path(key), key) as file:
        return file.missing()[0]


@pytest.mark.soak
def test_a_terminal_that_hangs_up_before_it_has_begun(start, study, still_alive, tmp_path):
    """While Ray starts; the sweep is there and can be gone on with."""
    path, results = study("f"), ["--results", str(tmp_path / "results")]
    for verb in (("run", path), ("resume", "f")):
        driver = start(*verb, *results)
        driver.wait_for("starting Ray")
        ended_in_order(
            driver, lambda d=driver: os.killpg(d.process.pid, signal.SIGHUP), still_alive
        )
        assert driver.err == []


@pytest.mark.soak
def test_a_bug_says_first_how_to_go_on(start, study, tmp_path):
    """What is to be done stands before the traceback."""
    path = study("f", dimensions={"method": ["student"]}, teacher=None)
    words = ["--set", "compression=explicit", "--set", "student=wrn_10_0.5", "--set", "epochs=3"]
    results = ["--results", str(tmp_path / "results")]
    driver = start("run", path, *words, *results, program=BUGGY)
    assert driver.wait() == 1
    assert driver.err[0] == "kdsweep: f ended by an error (RuntimeError: a bug of ours); " + RESUME
    assert "RuntimeError: a bug of ours\n" in driver.err[1:]


@pytest.mark.soak
@pytest.mark.parametrize("taught", [False, True])
def test_where_others_take_the_memory_trials_fail_and_the_sweep_ends(
    start, study, tmp_path, monkeypatch, taught
):
    """Ray ends workers before the machine's memory runs out, here at once and again and again."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.02")
    changes = {} if taught else {"teacher": None}
    path = study("f", dimensions={"method": ["student"]}, **changes)
    words = ["--set", "compression=explicit", "--set", "student=wrn_10_0.5", "--set", "epochs=200"]
    driver = start("run", path, *words, "--results", str(tmp_path / "results"))
    assert driver.wait() == 1
    said = "".join(driver.out + driver.err)
    if taught:
        assert driver.err[-1].startswith("kdsweep: teacher wrn_16_1: the worker was ended, as")
    else:
        assert said.count("f-00000: the worker process died") == 2
        assert "0 trials completed, 1 failed" in said
    assert "Traceback" not in said
