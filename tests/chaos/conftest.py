"""Sweeps as real processes, to be killed in real ways."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from here import said

PATIENCE = 600  # seconds; a start of Ray alone can take half a minute on a busy machine

MODULE = ["-m", "orchestrator.cli"]

STUDY = {
    "dataset": "digits",
    "teacher": {"model": "wrn_16_1", "epochs": 3},
    "fixed": {
        "student": "wrn",
        "compression": "factor",
        "epochs": 4,
        "lr": 0.1,
        "val_fraction": 0.2,
    },
    "dimensions": {"method": ["student", "kd"], "factor": [2, 4]},
    "sampler": "grid",
}
"""Four trials of a second."""


def _prepare() -> None:
    # The tests themselves may run under `nohup`.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Sweep:
    """A `kdsweep` process under way, with what it has said so far."""

    def __init__(self, *arguments: str, program: str = "") -> None:
        ours = {name: value for name, value in os.environ.items() if "RAY_AUTH" not in name}
        environment = {**ours, "KDSWEEP_CHECKPOINT_SECONDS": "0", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *(["-c", program] if program else MODULE), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_prepare,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=into.extend, args=(pipe,), daemon=True)
            for pipe, into in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for something to become true while the sweep runs."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None:
                self.wait()
                raise AssertionError(f"ended before {what}:\n{''.join(self.out + self.err)}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"waited too long for {what}:\n{''.join(self.out + self.err)}")
            time.sleep(0.02)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Waits until so many lines with this text were printed."""
        self.wait_until(lambda: sum(text in line for line in list(self.out)) >= times, repr(text))

    def wait(self) -> int:
        """Waits for the end; returns the exit code."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(10)
        return code

    def kill(self) -> None:
        """SIGKILL to the driver and everything that it started, Ray's processes included."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()

    def interrupt(self) -> None:
        """SIGINT to the driver's process group, as Ctrl-C on a terminal sends it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def processes(self) -> list[int]:
        """The driver and everything that it started."""
        return [self.process.pid, *descendants(self.process.pid)]

    def workers(self, actor: str) -> list[int]:
        """The processes of a class of Ray actors."""
        return [pid for pid in self.processes() if f"ray::{actor}" in command(pid)]

    def programs(self, name: str) -> list[int]:
        """The processes of an executable."""
        return [pid for pid in self.processes() if command(pid).partition(" ")[0].endswith(name)]


def descendants(pid: int) -> list[int]:
    """Children, grandchildren, ... of a process."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += front
    return found


def command(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


# Everything else in a row follows from the config: these are the clock's and the machine's.
MEASURED = (
    "attempt, latency_ms, latencies, train_seconds, images_per_second, peak_memory_bytes, host, "
    "teacher_cache_hit_rate, started_at, ended_at"
)
ROWS = f"SELECT * EXCLUDE ({MEASURED}) FROM trials ORDER BY trial_id"


@pytest.fixture
def rows() -> Callable[..., list[str]]:
    """The trials of a results folder, without what was measured."""
    return lambda *results: said("query", ROWS, "--csv", *results).splitlines()[1:]


@pytest.fixture
def kdsweep() -> Callable[..., str]:
    """Runs a verb that reads and must succeed, in this process; returns its output."""
    return said


@pytest.fixture
def start() -> Iterator[Callable[..., Sweep]]:
    """Starts a verb that runs trials; what is left of it is killed after the test."""
    started: list[Sweep] = []

    def start_one(*arguments: str, program: str = "") -> Sweep:
        started.append(Sweep(*arguments, program=program))
        return started[-1]

    yield start_one
    for sweep in started:
        if sweep.process.poll() is None:
            sweep.kill()


@pytest.fixture
def study(tmp_path) -> Callable[..., str]:
    """Writes a study file with changes to `STUDY`; returns its path."""

    def write(name: str, **changes: object) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        return str(path)

    return write


@pytest.fixture
def still_alive() -> Callable[[list[int]], list[str]]:
    """Commands of those processes that still run after a grace period."""

    def check(pids: list[int]) -> list[str]:
        deadline = time.monotonic() + 20
        while (left := [text for pid in pids if (text := command(pid))]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
        return left

    return check
