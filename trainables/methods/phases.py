"""The phases of a training: which parts of a method are its loss, and until when.

A term says how it counts in which share of the training; here that becomes one list for all.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

CE = "ce"
"""The part that is no term's: the cross-entropy."""


class Stretch(NamedTuple):
    """How a term counts in a share of the training.

    Attributes:
        until: the share of the training that is done when it ends, in (0, 1].
        counts: ``beside`` the cross-entropy and the other terms, ``alone``, or ``not`` at all.
    """

    until: float
    counts: Literal["beside", "alone", "not"]


THROUGHOUT = (Stretch(1.0, "beside"),)


class Phase(NamedTuple):
    """A share of the training in which the same parts are the loss.

    Attributes:
        until: the share of the training that is done when it ends.
        parts: names of the summands that count: terms, and ``ce``.
    """

    until: float
    parts: frozenset[str]


def phases_of(terms: Mapping[str, Sequence[Stretch]]) -> tuple[Phase, ...]:
    """The phases of a training, in their order; the last one ends with it.

    While some terms are alone, these are all that counts.

    Args:
        terms: by name, in the order of time, the last one to the end.

    Raises:
        ValueError: a term does not say how it counts at the end.
    """
    for name, own in terms.items():
        if not own or own[-1].until < 1.0:
            raise ValueError(f"term '{name}': its stretches end before the training does")
    phases = []
    for end in sorted({stretch.until for own in terms.values() for stretch in own} | {1.0}):
        now = {
            name: next(stretch.counts for stretch in own if end <= stretch.until)
            for name, own in terms.items()
        }
        alone = [name for name, counts in now.items() if counts == "alone"]
        beside = [CE, *(name for name, counts in now.items() if counts == "beside")]
        phases.append(Phase(end, frozenset(alone or beside)))
    return tuple(phases)
