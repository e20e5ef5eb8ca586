"""A sweep on Ray in which torch reports a lost device and a full memory, on a CPU.

A term of a package that is installed for the test raises what torch raises. As with CUDA, what
broke a process stays broken there: every later step of that process raises as well.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from foreign import install, known_to_workers, present
from here import said

TERM = '''
"""Breaks the process that it computes in, the first time (nowhere published, 2026)."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from trainables.methods.term import Term
from trainables.settings import setting

LOST = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerConfig:
    """What it raises."""

    kind: str = setting("none", "of error", choices=("none", "once", "teacher", "full"))


class Breaker(Term):
    """Nothing to learn from."""

    needs = frozenset()
    Config = BreakerConfig

    def forward(self, student, teacher, batch):
        global LOST
        if LOST:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered\\n...")
        marks = Path(__file__).resolve().with_name("marks")
        with open(marks / "pids", "a") as file:
            file.write(f"{self.config.kind} {os.getpid()}\\n")
        first = marks / self.config.kind
        breaks = self.config.kind in ("once", "teacher") and not first.exists()
        if breaks and batch.progress >= 0.5:  # there is something to go on from
            first.touch()
            LOST = True
            raise torch.AcceleratorError("CUDA error: device-side assert triggered\\n...")
        if self.config.kind == "full":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. ...")
        return student.logits.sum() * 0
'''
STUDY = {
    "dataset": "digits",
    "teacher": {
        "model": "resnet8_x0.5",
        "method": "kd+breaker",
        "breaker.kind": "teacher",
        "teacher": "resnet8_x0.25",
    },
    "fixed": {
        "student": "wrn_10_0.5",
        "epochs": 2,
        "val_fraction": 0.2,
        "train_fraction": 0.2,
        "method": "breaker",
        "precision": "fp32",
    },
    "dimensions": {"breaker.kind": ["once", "none", "full"], "lr": [0.1, 0.05]},
    "points": [
        {"breaker.kind": "once", "lr": 0.1},
        {"breaker.kind": "none", "lr": 0.1},
        {"breaker.kind": "full", "lr": 0.1},
        {"breaker.kind": "none", "lr": 0.05},
    ],
    "objectives": {"val_acc": "max"},
    "sampler": "points",
}
ATTEMPTS = "SELECT trial_id, attempt, status, error FROM trials_all ORDER BY trial_id, attempt"
EPOCHS = "SELECT attempt, epoch, seconds FROM epochs_all WHERE trial_id = 's-00000' ORDER BY ALL"


@pytest.fixture
def marks(tmp_path: Path, sites: Path) -> Iterator[Path]:
    """The folder of the term's notes; its package is there for this process and for workers."""
    points = "[kdsweep.terms]\nbreaker = kdsweep_breaker:Breaker\n"
    site = install(tmp_path / "package", "kdsweep_breaker", TERM, points)
    folder = site / "marks"
    folder.mkdir()
    with (
        present(site, "kdsweep_breaker"),
        known_to_workers(site, sites),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("KDSWEEP_CHECKPOINT_SECONDS", "0")
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_broken_process_ends_and_its_trial_goes_on_elsewhere(
    tmp_path: Path, marks: Path, cluster: list[str], full: bool
) -> None:
    """So does one whose memory is full, where two more trials are trained behind the first two."""
    study = tmp_path / "s.yaml"
    points = STUDY["points"] if full else STUDY["points"][:2]
    study.write_text(yaml.safe_dump(STUDY | {"points": points}, sort_keys=False))
    results = ["--results", str(tmp_path / "results")]
    first = tmp_path / "first.yaml"
    first.write_text(yaml.safe_dump(STUDY | {"teacher": {"model": "resnet8_x0.25"}}))
    said("teacher", "train", str(first), *results)
    printed = said("run", str(study), "--max-concurrent", "1", *cluster, *results)
    lost = "teacher resnet8_x0.5(kd+breaker:resnet8_x0.25): CUDA error: device-side assert"
    again = [line for line in printed.splitlines() if line.startswith(lost)]
    assert len(again) == 1
    assert "trying again" in again[0]
    assert "s-00000: DeviceError: CUDA error: device-side assert triggered" in printed
    counts = "3 trials completed, 1 failed" if full else "2 trials completed, 0 failed"
    assert counts in printed

    def rows(sql: str) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(said("query", sql, "--csv", *results)))

    found = rows(ATTEMPTS)
    statuses = found.groupby("trial_id")["status"].agg(list).to_dict()
    expected = [["failed", "completed"], ["completed"], ["failed"], ["completed"]]
    assert [*statuses.values()] == expected[: len(points)]  # no GPU has a larger share to ask for
    errors = found.groupby("trial_id")["error"].agg(list)
    assert errors["s-00000"][0].startswith("DeviceError: CUDA error: device-side assert")
    if full:
        assert errors["s-00002"][0].startswith("OutOfMemoryError: the memory of the GPU is full")
    epochs = rows(EPOCHS)
    assert epochs["attempt"].tolist() == [1, 2, 2]
    assert epochs["seconds"][0] == epochs["seconds"][1], "it went on from its checkpoint"

    # A process that broke takes no further trial, and neither does one whose memory was full.
    lines = [line.split() for line in (marks / "pids").read_text().splitlines()]
    pids = list(dict.fromkeys((kind, pid) for kind, pid in lines))
    kinds = ["teacher", "teacher", "once", "once", "none", "full", "none"]
    assert [kind for kind, _ in pids] == (kinds if full else kinds[:5])
    one, other, first, second, between, *rest = (pid for _, pid in pids)
    assert one != other
    assert first != second
    assert between in (second, *rest[:1]), "where nothing broke, workers are reused"
    assert len({*rest}) == len(rest)
