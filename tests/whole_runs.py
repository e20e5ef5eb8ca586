"""Runs to the end, their rows without the clock, and their weights."""

from typing import Any

import torch

from trainables.job import STUDENT, Job, Run
from trainables.models.weights import read_network

CPU = torch.device("cpu")
CLOCK = {
    "trial_id",
    "train_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "latency_ms",
    "started_at",
    "ended_at",
}


def finish(run: Run) -> dict[str, Any]:
    """Trains to the last epoch; returns the trial's row."""
    while not run.finished:
        run.run_epoch()
    return run.row("completed")


def steady(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what the clock and the trial's name decide."""
    return {key: value for key, value in row.items() if key not in CLOCK}


def weights(job: Job) -> dict[str, torch.Tensor]:
    """Of the student's file."""
    return read_network(job.folder, STUDENT)[1].state_dict()


def assert_equal_weights(first: Job, second: Job) -> None:
    """To the last bit."""
    ours, theirs = weights(first), weights(second)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
