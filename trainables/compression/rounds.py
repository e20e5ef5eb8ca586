"""Rounds of a step: when they come."""

import math
from collections.abc import Sequence

from trainables.errors import UserError


def evenly(rounds: int, begin: float, end: float, name: str) -> list[float]:
    """The moments of some rounds from one share of the training to another.

    Raises:
        UserError: the shares are in the wrong order, or leave no room between rounds.
    """
    length = end - begin
    if length < 0 or (length == 0 and rounds > 1):
        more = "more than" if rounds > 1 else "at least"
        raise UserError(f"{name}.end: expected {more} {name}.begin {begin:g}, got {end:g}")
    gap = length / max(rounds - 1, 1)
    return [begin + gap * done for done in range(rounds)]


def epochs_before(moment: float, epochs: int) -> int:
    """How many epochs are done when a moment comes: one between two epochs waits for the next.

    Args:
        moment: share of the training, in [0, 1].
        epochs: of the whole training.
    """
    # Rounded, because 0.7 * 10 is 7.000000000000001 and would come an epoch late.
    return math.ceil(round(moment * epochs, 6))


def crowded(moments: Sequence[float], epochs: int) -> str | None:
    """That several moments of a step come between the same two epochs, in words; None: they do not.

    Args:
        moments: of the step.
        epochs: of the whole training.
    """
    apart = len({epochs_before(moment, epochs) for moment in moments})
    if apart == len(moments):
        return None
    return (
        f"{len(moments) - apart} of {len(moments)} come together with the one before, with no "
        f"training between them: the training has {epochs} epochs"
    )
