"""What a trial is judged by beside its scores: latencies, and the constraints of its study."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from trainables.columns import TrialRow
from trainables.compression.step import Step
from trainables.config import TrialConfig
from trainables.constraints import Constraint, named
from trainables.errors import UserError
from trainables.measurement.costs import foreseeable, foreseen
from trainables.measurement.latency import latency_of
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.objectives import BATCHES, timed_with
from trainables.runtimes.choice import runtime_for

log = logging.getLogger(__name__)

Asked = Mapping[str, set[int]]
"""Sizes of batches that are timed, by runtime."""


def asked_of(config: TrialConfig, student: Network) -> Asked:
    """What a trial that is over is timed with: what its config asks for, and what ``latency_ms``
    is of."""
    asked = {runtime: {*BATCHES} for runtime in config.runtimes}
    asked.setdefault(runtime_for(student), set()).add(1)
    return asked


def asked_before(constraints: Iterable[Constraint], student: Network) -> Asked:
    """What has to be timed to judge a student that is not trained yet."""
    asked: dict[str, set[int]] = {}
    for one in constraints:
        if one.name == "latency_ms" or timed_with(one.name):
            runtime, batch = timed_with(one.name) or (runtime_for(student), 1)
            asked.setdefault(runtime, set()).add(batch)
    return asked


def add_latencies(
    row: TrialRow, student: Network, image_shape: ImageShape, device: torch.device, asked: Asked
) -> None:
    """Fills in ``latency_ms``, ``runtime`` and ``latencies``.

    Args:
        row: of the trial.
        student: as it is now.
        image_shape: ``(C, H, W)``.
        device: where it is timed.
        asked: with what. In the place of a runtime's numbers is an ``error``, in a line, where it
            cannot run the student: what was trained is worth its row.
    """
    found: dict[str, dict[str, Any]] = {}
    for runtime, batches in asked.items():
        found[runtime] = {}
        try:
            for batch in sorted(batches):
                timing = latency_of(student, image_shape, str(device), runtime, batch)
                found[runtime][str(batch)] = timing._asdict()
        except UserError as error:
            found[runtime]["error"] = str(error)
            log.warning("no latency by runtime %s: %s", runtime, error)
    if not found:
        return
    row.latencies = json.dumps(found)
    own = runtime_for(student)
    if "1" in found.get(own, {}):
        row.runtime, row.latency_ms = own, found[own]["1"]["median_ms"]


def refusal(
    constraints: Sequence[Constraint], row: TrialRow, steps: Iterable[Step]
) -> tuple[dict[str, float], str] | None:
    """Whether a student that has not been trained violates a constraint whatever comes.

    Args:
        constraints: of the study; those of what only a training brings are not judged here.
        row: with the costs of the student behind the steps that come before the training.
        steps: of its chain.

    Returns:
        By how much which constraint is violated, and that in words; None where the student may
        keep all of them.
    """
    early = [one for one in constraints if foreseeable(one.name)]
    left = [step for step in steps if any(moment > 0 for moment in step.moments)]
    values = foreseen(early, row.known(), left, done=0.0)
    if not values:
        return None
    beyond = {one.name: one.excess(values[one.name]) for one in early if one.name in values}
    words = named(early, values)
    if waiting := ", ".join(step.name for step in left):
        words += f" (with what {waiting} can still change)"
    return beyond, f"not trained: {words}"
