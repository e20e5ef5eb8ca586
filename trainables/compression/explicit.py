"""Explicit: the student as it is named."""

from dataclasses import dataclass

from trainables.compression.step import Choice
from trainables.errors import UserError
from trainables.models.registry import FAMILIES, canonical_name


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplicitConfig:
    """No settings."""


class Explicit(Choice):
    """See the head of this file."""

    Config = ExplicitConfig

    def named(self, student: str) -> str:
        return member(student, "explicit")


def member(student: str, choice: str) -> str:
    """The canonical name of a student that has to be a network by itself.

    Args:
        student: a model name.
        choice: what needs it to be one, for the error.

    Raises:
        UserError: an unknown name, or that of a family.
    """
    family = FAMILIES.get(student)
    if family is not None and student not in family.members:
        raise UserError(
            f"student: '{student}' is a family, and compression '{choice}' needs one of its "
            f"members, such as {family.example} ({family.pattern})"
        )
    return canonical_name(student)
