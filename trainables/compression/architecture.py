"""Students that are small by architecture: named, cut in depth, narrowed, or chosen by factor.

A compression factor is the teacher's parameter count over the student's.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import torch

from trainables.compression.measure import count_params
from trainables.errors import UserError, unknown
from trainables.models.family import Family, ImageShape, number, with_width
from trainables.models.mobilenetv2 import REMOVABLE, truncated
from trainables.models.registry import (
    FAMILIES,
    canonical_name,
    create_model,
    family_of,
    split_width,
)

_KINDS = {
    "explicit": "the student as it is named",
    "depth": "MobileNetV2 without its last L features, L from 0 to 17 (arXiv 2503.13008)",
    "width": "every width of the student times a multiplier (Howard et al., MobileNets, 2017)",
    "factor": "the member of the student's family whose parameter count comes nearest to the "
    "teacher's divided by F",
}
# What `depth` cuts.
_CUT = ("mobilenetv2", "mobilenetv2_s2")
# A family that misses the requested count by more than this has no such student.
_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentChoice:
    """A student network and how it was asked for.

    Attributes:
        name: canonical model name that `create_model` builds.
        kind: ``explicit``, ``depth``, ``width`` or ``factor``.
        requested: None for ``explicit``, L for ``depth``, the multiplier for ``width``, F for
            ``factor``. What was achieved is measured on the built network.
    """

    name: str
    kind: str
    requested: float | None


def kinds() -> dict[str, str]:
    """Every kind of choice with one line that says what its amount means."""
    return dict(_KINDS)


def choose_student(
    student: str,
    kind: str,
    amount: float | None,
    *,
    teacher_params: int | None,
    classes: int,
    image_shape: ImageShape,
) -> StudentChoice:
    """Find the student that a compression asks for.

    Args:
        student: a model name; for ``factor`` also the name of a family.
        kind: one of `kinds`.
        amount: None for ``explicit``, L for ``depth``, the multiplier for ``width``, F for
            ``factor``.
        teacher_params: trainable parameters of the teacher; only ``factor`` needs it.
        classes: number of classes of the data.
        image_shape: ``(C, H, W)`` of its images.

    Raises:
        UserError: an unknown name, or a request that this student cannot meet.
    """
    name = named_student(student, kind, amount)
    if name is None:
        assert amount is not None
        name = _nearest(student, amount, teacher_params, classes, image_shape)
    return StudentChoice(name=name, kind=kind, requested=None if amount is None else float(amount))


def named_student(student: str, kind: str, amount: float | None) -> str | None:
    """What can be told of a request without the images and the teacher.

    Args:
        student, kind, amount: as for `choose_student`.

    Returns:
        The canonical name of the student; None for a factor, which the teacher decides.

    Raises:
        UserError: an unknown name, or a request that this student cannot meet.
    """
    if kind not in _KINDS:
        raise unknown("compression", kind, _KINDS)
    if kind == "explicit":
        if amount is not None:
            raise UserError(f"compression 'explicit' takes no amount, got {amount}")
        return _member(student, kind)
    if amount is None or not math.isfinite(amount):
        raise UserError(f"{kind}: expected a number, got {amount}")
    if kind == "depth":
        return _cut(student, amount)
    if kind == "width":
        return _narrow(student, amount)
    if amount <= 0:
        raise UserError(f"factor: expected a number above 0, got {amount:g}")
    _family(student)
    return None


def _member(student: str, kind: str) -> str:
    """The canonical name of a student that has to be a network by itself."""
    family = FAMILIES.get(student)
    if family is not None and student not in family.members:
        raise UserError(
            f"student: '{student}' is a family, and compression '{kind}' needs one of its "
            f"members, such as {family.example} ({family.pattern})"
        )
    return canonical_name(student)


def _cut(student: str, blocks: float) -> str:
    base, width = split_width(student)
    if base not in _CUT:
        if student not in FAMILIES:
            canonical_name(student)  # there is such a network at all
        raise UserError(
            f"depth: only {' and '.join(_CUT)} can be cut, whole or with a width (as in "
            f"{_CUT[0]}_x0.5), not student '{student}'"
        )
    if blocks != int(blocks) or not 0 <= blocks <= REMOVABLE:
        raise UserError(f"depth: expected a whole number from 0 to {REMOVABLE}, got {blocks:g}")
    return canonical_name(with_width(truncated(base, int(blocks)), width))


def _narrow(student: str, multiplier: float) -> str:
    if family_of(_member(student, "width")) is None:
        raise UserError(f"width: '{student}' is not of this zoo and has no width multiplier")
    if float(number(multiplier)) < 1e-4:
        raise UserError(f"width: expected a multiplier of at least 0.0001, got {multiplier:g}")
    return canonical_name(with_width(student, multiplier))


def _nearest(
    student: str,
    factor: float,
    teacher_params: int | None,
    classes: int,
    image_shape: ImageShape,
) -> str:
    """The family member nearest to ``teacher_params / factor`` on a logarithmic scale."""
    if teacher_params is None:
        raise UserError("factor: a compression factor needs a teacher to compare with")
    target = teacher_params / factor

    def count(name: str) -> int:
        return _params_of(name, classes, image_shape)

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
            f"factor: {factor:g} asks for a {family.name} of {target:.0f} parameters; "
            f"the nearest, {best}, has {count(best)}"
        )
    return canonical_name(best)


def _family(student: str) -> Family:
    family = FAMILIES.get(student) or family_of(student)
    if family is None:
        raise UserError(
            f"factor: '{student}' is not of this zoo; families: {', '.join(sorted(FAMILIES))}"
        )
    return family


@lru_cache(maxsize=4096)
def _params_of(name: str, classes: int, image_shape: ImageShape) -> int:
    with torch.device("meta"):
        return count_params(create_model(name, classes, image_shape))
