"""Rounds of a step: when they come."""

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
