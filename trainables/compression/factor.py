"""Factor: the member of the student's family that is nearest to the teacher's parameters / F.

A compression factor is the teacher's parameter count over the student's.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass

from trainables.compression.measure import params_of
from trainables.compression.step import Choice
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint
from trainables.models.family import Family, ImageShape
from trainables.models.registry import FAMILIES, canonical_name, family_of
from trainables.settings import setting

# A family that misses the requested count by more than this has no such student.
_TOLERANCE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorConfig:
    """How much smaller than the teacher."""

    amount: float = setting(
        None, "teacher's parameters / student's", above=0, search=(2, 128), log=True
    )


class Factor(Choice):
    """See the head of this file."""

    Config = FactorConfig

    def named(self, student: str) -> None:
        _family(student)

    def choose(
        self, student: str, *, teacher_params: int | None, classes: int, image_shape: ImageShape
    ) -> str:
        """The member that is nearest on a logarithmic scale."""
        if teacher_params is None:
            raise UserError("factor: a compression factor needs a teacher to compare with")
        target = teacher_params / self.config.amount

        def count(name: str) -> int:
            return params_of(Blueprint(name), classes, image_shape)

        def miss(name: str) -> float:
            return abs(math.log(count(name) / target))

        # Along a chain the counts grow, so that the nearest member is a neighbour of the target.
        family = _family(student)
        neighbours: list[str] = []
        for chain in family.ladder:
            above = bisect_left(chain, target, key=count)
            neighbours += chain[max(above - 1, 0) : above + 1]
        best = min(neighbours, key=lambda name: (miss(name), name))
        if miss(best) > math.log(_TOLERANCE):
            raise UserError(
                f"factor: {self.config.amount:g} asks for a {family.name} of {target:.0f} "
                f"parameters; the nearest, {best}, has {count(best)}"
            )
        return canonical_name(best)


def _family(student: str) -> Family:
    family = FAMILIES.get(student) or family_of(student)
    if family is None:
        raise UserError(
            f"factor: '{student}' is not of this zoo; families: {', '.join(sorted(FAMILIES))}"
        )
    return family
