"""A sweep that is killed, at random and repeatedly, against one that is left alone."""

import contextlib
import os
import random
import signal
import time
from collections import Counter

import pytest

from orchestrator.results.store import Store

TWICE = "SELECT trial_id FROM trials_all WHERE status = 'completed' GROUP BY 1 HAVING count(*) > 1"
EPOCHS_TWICE = "SELECT trial_id, epoch FROM epochs GROUP BY ALL HAVING count(*) > 1"
EPOCHS = "SELECT trial_id, epoch, train_loss, val_loss, val_acc FROM epochs ORDER BY ALL"


@pytest.mark.soak
def test_a_sweep_that_is_killed_gives_the_same_table(start, study, kdsweep, rows, tmp_path):
    """Its driver alone in the teacher's training, and while it tries; see test_faults, too."""
    left_alone, killed = (["--results", str(tmp_path / name)] for name in ("alone", "killed"))
    driver = start("run", study("c"), *left_alone)
    assert driver.wait() == 0, driver.err
    expected = rows(*left_alone)
    assert len(expected) == 4
    assert sum(",completed," in row for row in expected) == 4

    seed = random.randrange(2**32)
    print(f"the moments of the kills follow from seed {seed}")
    moment = random.Random(seed)
    driver = start("run", study("c"), *killed)
    driver.wait_for("epoch 1/3")  # of the teacher
    driver.kill()
    driver = start("resume", "c", *killed)
    driver.wait_for(" trials  c-")
    time.sleep(moment.uniform(0, 0.4))
    driver.kill()
    assert not [line for line in driver.out if "4/4" in line]
    (tmp_path / "killed" / "c" / "optuna.journal").write_bytes(b"of another machine")
    driver = start("resume", "c", *killed)
    assert driver.wait() == 0, driver.err

    assert rows(*killed) == expected
    tables = [kdsweep("table", "c", "--format", "csv", *folder) for folder in (left_alone, killed)]
    assert tables[0] == tables[1]
    assert kdsweep("query", TWICE, "--csv", *killed).split() == ["trial_id"]


KILLS = int(os.environ.get("KDSWEEP_KILLS", "32"))
KINDS = ("driver", "group", "worker", "head")
WORKERS_AT_MOST = 2
"""Of a sweep: a trial whose worker dies three times has failed for good."""
LONGER = {
    "method": ["student", "kd"],
    "factor": [2, 4],
    "batch_size": [32, 64],
    "momentum": [0.8, 0.9],
}


class Killer:
    """Kills parts of sweeps under way, at moments that follow from a seed.

    Attributes:
        left: what is still to be killed, by kind.
        done: how often each was killed.
        lost: reported rows that were not in the store afterwards.
    """

    def __init__(self, seed: int, start, still_alive) -> None:
        self.start, self.still_alive = start, still_alive
        self.chance = random.Random(seed)
        self.left = [KINDS[number % len(KINDS)] for number in range(KILLS)]
        self.chance.shuffle(self.left)
        self.done: Counter[str] = Counter()
        self.lost = 0

    def run(self, study: str, results: str) -> None:
        """Runs the sweep ``c`` to its end, whatever dies meanwhile."""
        workers = 0
        driver = self.start("run", study, "--results", results)
        while self._comes_to_a_moment(driver):
            kinds = [kind for kind in self.left if kind != "worker" or workers < WORKERS_AT_MOST]
            if not kinds:
                break
            processes = driver.processes()
            if not self._kill(driver, kinds[0]):
                continue
            if kinds[0] == "worker":
                workers += 1
            elif driver.wait() == 0:
                break  # it was faster
            else:
                assert self.still_alive(processes) == []
                self._count_lost(driver, results)
                driver = self.start("resume", "c", "--results", results)
            self.left.remove(kinds[0])
            self.done[kinds[0]] += 1
            print(f"{self.done.total():3d} killed: {kinds[0]}", flush=True)
        assert driver.wait() == 0, driver.err
        self._count_lost(driver, results)

    def _comes_to_a_moment(self, driver) -> bool:
        """Waits, until some trials have ended and others run; whether the driver runs still."""
        trials = self.chance.choice([0, 0, 1, 2])

        def due() -> bool:
            under_way = driver.workers("DistillTrainable") or driver.workers("TeacherTraining")
            there = bool(under_way) and len(reported(driver)) >= trials
            return there or driver.process.poll() is not None

        driver.wait_until(due, "a moment to kill")
        time.sleep(self.chance.uniform(0, 2.0))
        return driver.process.poll() is None

    def _kill(self, driver, kind: str) -> bool:
        """Returns whether there was something to kill."""
        if kind == "group":
            os.killpg(driver.process.pid, self.chance.choice([signal.SIGTERM, signal.SIGKILL]))
            return True
        victims = {
            "driver": [driver.process.pid],
            "worker": driver.workers("DistillTrainable") or driver.workers("TeacherTraining"),
            "head": driver.programs("gcs_server"),
        }[kind]
        with contextlib.suppress(ProcessLookupError):
            if victims:
                os.kill(self.chance.choice(victims), signal.SIGKILL)
                return True
        return False

    def _count_lost(self, driver, results: str) -> None:
        if said := reported(driver):
            there = {row["trial_id"] for row in Store(results, "c").read("trials").to_pylist()}
            self.lost += len(said - there)


def reported(driver) -> set[str]:
    """The trials whose end a driver has printed."""
    lines = [line for line in list(driver.out) if " trials  c-" in line]
    return {line.partition(" trials  ")[2].split()[0] for line in lines}


@pytest.mark.soak
def test_no_kill_loses_or_doubles_a_row(start, study, kdsweep, rows, still_alive, tmp_path):
    """``KDSWEEP_KILLS`` kills; ``KDSWEEP_KILL_SEED`` repeats their order and moments."""

    def asked(sql: str, results: str) -> list[str]:
        return kdsweep("query", sql, "--csv", "--results", results).splitlines()[1:]

    path, alone = study("c", dimensions=LONGER), str(tmp_path / "alone")
    assert start("run", path, "--results", alone).wait() == 0
    expected, epochs = rows("--results", alone), asked(EPOCHS, alone)
    table = kdsweep("table", "c", "--format", "csv", "--results", alone)
    assert len(expected) == 16
    assert len(epochs) == 16 * 4

    seed = int(os.environ.get("KDSWEEP_KILL_SEED") or random.randrange(2**32))
    killer = Killer(seed, start, still_alive)
    print(f"\n{KILLS} kills; KDSWEEP_KILL_SEED={seed} repeats them")
    sweeps = doubled = equal = 0
    while killer.left:
        results = str(tmp_path / f"killed{sweeps}")
        killer.run(path, results)
        sweeps += 1
        found = rows("--results", results), asked(EPOCHS, results)
        killer.lost += len({*expected, *epochs} - {*found[0], *found[1]})
        doubled += len(asked(TWICE, results)) + len(asked(EPOCHS_TWICE, results))
        same = kdsweep("table", "c", "--format", "csv", "--results", results) == table
        equal += found == (expected, epochs) and same
        print(f"sweep {sweeps}: {'equal' if equal == sweeps else 'NOT equal'} to the undisturbed")
    kills = ", ".join(f"{killer.done[kind]} {kind}" for kind in KINDS)
    print(f"{killer.done.total()} kills ({kills}): {killer.lost} rows lost, {doubled} doubled")
    print(f"tables equal to the undisturbed sweep's: {equal} of {sweeps}")
    assert (killer.lost, doubled, equal) == (0, 0, sweeps)
