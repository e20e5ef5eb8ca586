"""What a trial is judged by beside its scores: latencies, and the constraints of its study."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from trainables.columns import TrialRow
from trainables.compression.step import Step
from trainables.config import TrialConfig
from trainables.constraints import Constraint, named, violations
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


class Judge:
    """Fills in what is measured of a trial's student beside its scores, and what it violates.

    Args:
        config: of the trial: says what times its student.
        constraints: of the study.
        image_shape: ``(C, H, W)``.
        device: where the student is timed.
    """

    def __init__(
        self,
        config: TrialConfig,
        constraints: Sequence[Constraint],
        image_shape: ImageShape,
        device: torch.device,
    ) -> None:
        self.constraints = constraints
        self._config, self._shape, self._device = config, image_shape, device

    @property
    def early(self) -> bool:
        """Whether a student is judged before its training. What was chosen is confirmed in any
        case: its costs have been judged."""
        return bool(self.constraints) and self._config.stage == "search"

    def before(self, row: TrialRow, student: Network, steps: Iterable[Step]) -> str | None:
        """Whether a student that has not been trained violates a constraint whatever comes.

        Constraints on what only a training brings are not judged here. Adds to the row the
        latencies that are bounded, and ``violations``.

        Args:
            row: with the costs of the student behind the steps that come before the training.
            student: as it is then.
            steps: of its chain.

        Returns:
            What is violated, in words; None where the student may keep all constraints.
        """
        early = [one for one in self.constraints if foreseeable(one.name)]
        asked: dict[str, set[int]] = {}
        for one in early:
            if one.name == "latency_ms" or timed_with(one.name):
                runtime, batch = timed_with(one.name) or (runtime_for(student), 1)
                asked.setdefault(runtime, set()).add(batch)
        self._time(row, student, asked)
        left = [step for step in steps if any(moment > 0 for moment in step.moments)]
        values = foreseen(early, row.known(), left, done=0.0)
        if not values:
            return None
        beyond = {one.name: one.excess(values[one.name]) for one in early if one.name in values}
        row.violations = json.dumps(beyond)
        words = named(early, values)
        if waiting := ", ".join(step.name for step in left):
            words += f" (with what {waiting} can still change)"
        return f"not trained: {words}"

    def behind(self, row: TrialRow, student: Network) -> None:
        """Adds to the row of a trial that is over all latencies, and ``violations``."""
        asked = {runtime: {*BATCHES} for runtime in self._config.runtimes}
        asked.setdefault(runtime_for(student), set()).add(1)
        self._time(row, student, asked)
        if beyond := violations(self.constraints, row.known()):
            row.violations = json.dumps(beyond)

    def _time(self, row: TrialRow, student: Network, asked: Asked) -> None:
        """Fills in ``latency_ms``, ``runtime`` and ``latencies``. In the place of a runtime's
        numbers is an ``error`` where it cannot run the student, whose training is worth its row."""
        found: dict[str, dict[str, Any]] = {}
        for runtime, batches in asked.items():
            found[runtime] = {}
            try:
                for batch in sorted(batches):
                    what = student, self._shape, str(self._device), runtime, batch
                    found[runtime][str(batch)] = latency_of(*what)._asdict()
            except UserError as error:
                found[runtime]["error"] = str(error)
                log.warning("no latency by runtime %s: %s", runtime, error)
        if not found:
            return
        row.latencies = json.dumps(found)
        own = runtime_for(student)
        if "1" in found.get(own, {}):
            row.runtime, row.latency_ms = own, found[own]["1"]["median_ms"]
