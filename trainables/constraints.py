"""Constraints: bounds that a study sets on what it may also optimise."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.column import Column
from trainables.errors import UserError
from trainables.objectives import check_objective, value_of

_TEXT = re.compile(r"\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """One bound.

    Attributes:
        name: of the column, as objectives are named.
        upper: whether values are to be at most the bound; else at least.
        bound: in the column's unit.
    """

    name: str
    upper: bool
    bound: float

    @property
    def column(self) -> Column:
        """What is bounded."""
        return check_objective(self.name, "constraint")

    def excess(self, value: float) -> float:
        """By how much a value is beyond the bound, in its unit; not above 0 where it is not."""
        return value - self.bound if self.upper else self.bound - value

    def __str__(self) -> str:
        unit = self.column.unit
        return f"{self.name} {'<=' if self.upper else '>='} {self.bound:.12g}" + (
            f" {unit}" if unit not in ("", "fraction") else ""
        )


def read_constraint(name: str, text: object) -> Constraint:
    """A constraint as a study has it: ``latency_ms`` and ``<= 5``.

    Raises:
        UserError: there is no such column, it is nothing to bound, or the text is no bound.
    """
    check_objective(name, "constraint")
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    try:
        bound = float(found[2]) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or not math.isfinite(bound):
        expected = 'expected <= or >= and a number, as in "<= 5"'
        raise UserError(f"constraint '{name}': {expected}, got {text!r:.60}")
    return Constraint(name, found[1] == "<=", bound)


def read_constraints(given: Mapping[str, str]) -> tuple[Constraint, ...]:
    """All constraints of a study, in their order; see `read_constraint`."""
    return tuple(read_constraint(*item) for item in given.items())


def violations(constraints: Iterable[Constraint], row: Mapping[str, Any]) -> dict[str, float]:
    """By how much a row of ``trials`` violates constraints, by column and in its unit.

    What the row has no value of is not judged.
    """
    found = {}
    for one in constraints:
        value = value_of(row, one.name)
        if value is not None and one.excess(value) > 0:
            found[one.name] = one.excess(value)
    return found


def named(constraints: Iterable[Constraint], values: Mapping[str, float]) -> str:
    """The constraints that are violated, in words: ``latency_ms is 6.7, expected <= 5 ms``.

    Args:
        constraints: of the study.
        values: of those that are violated, by column.
    """
    words = [
        f"{one.name} is {_told(values[one.name], one)}, "
        f"expected {str(one).removeprefix(one.name + ' ')}"
        for one in constraints
        if one.name in values
    ]
    return "; ".join(words)


def _told(value: float, constraint: Constraint) -> str:
    """A value with as few digits as show that it is beyond the bound; a count with all."""
    short = f"{value:.6g}"
    enough = constraint.excess(float(short)) > 0 and not float(value).is_integer()
    return short if enough else f"{value:.12g}"
