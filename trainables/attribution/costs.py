"""How much work explanations are: told before it begins, and while it takes long.

The unit is a pass: one image that goes through a network once, there and back or there alone.
"""

import logging
from collections.abc import Mapping
from typing import Any

from trainables.attribution.registry import EXPLAINERS
from trainables.data.notes import plural
from trainables.data.progress_line import ProgressLine

log = logging.getLogger(__name__)

LONG = 60.0
"""Seconds that are left, above which it is told how many."""

SETTLED = 2.0
"""Seconds of work from which the rest is estimated: a first batch does more than the others."""


def passes_of(explainers: Mapping[str, Any]) -> int:
    """Passes of a map by every explainer.

    Args:
        explainers: configs by name.
    """
    return sum(EXPLAINERS[name].passes(config) for name, config in explainers.items())


def in_words(explainers: Mapping[str, Any]) -> str:
    """What every explainer takes for a map: ``grad_cam (1 pass a map), smooth_grad (50)``.

    Args:
        explainers: configs by name, one at least.
    """
    counts = {name: EXPLAINERS[name].passes(config) for name, config in explainers.items()}
    (first, count), *others = counts.items()
    rest = [f"{name} ({count:,})" for name, count in others]
    return ", ".join([f"{first} ({plural(count, 'pass')} a map)", *rest])


def of_trial(explainers: Mapping[str, Any], images: int) -> str:
    """What it takes to explain a trial's student, one line.

    Args:
        explainers: configs by name, one at least.
        images: how many there are about, of validation and of the test set each.
    """
    passes = plural(2 * images * passes_of(explainers), "pass")
    return (
        f"every student is explained on about {images:,} validation and {images:,} test images by "
        f"{in_words(explainers)}: {passes} for a class each, and twice that for its teacher, once"
    )


class Effort:
    """What is done of some explanations; says how long the rest takes, where that is long.

    Args:
        label: what is done.
        total: passes.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._done, self._seconds = 0, 0.0
        self._line: ProgressLine | None = None

    def add(self, passes: int, seconds: float) -> None:
        """Counts what was done.

        Args:
            passes: of it, one at least.
            seconds: that these took.
        """
        self._done += passes
        self._seconds += seconds
        if self._line:
            self._line.show(self._done)
            return
        left = self._seconds / self._done * (self._total - self._done)
        if self._seconds >= SETTLED and left > LONG:
            log.warning("%s: about %.0f min more", self._label, left / 60)
            self._line = ProgressLine(f"{self._label}, passes", self._total)

    def close(self) -> None:
        """Says that all is done, where it was said how long it takes."""
        if self._line:
            self._line.close()
