"""Objectives: what a study may optimise, and what becomes of it in a row.

These are columns of ``trials``, and the headline metric of a task under its own name: ``val_map``
is ``val_score`` of the trials whose ``metric`` is ``map``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trainables.columns import TRIALS, Column
from trainables.errors import UserError, unknown
from trainables.tasks.metrics import HEADLINES

_PARTS = ("val", "test")

_COLUMNS: Mapping[str, Column] = {
    **TRIALS,
    **{
        f"{part}_{metric.name}": replace(
            TRIALS[f"{part}_score"], name=f"{part}_{metric.name}", better=metric.better
        )
        for part in _PARTS
        for metric in HEADLINES.values()
        if f"{part}_{metric.name}" not in TRIALS
    },
}

OBJECTIVES = [name for name, c in _COLUMNS.items() if c.better and "test" not in c.needs]
"""What a study may optimise."""


def check_objective(name: str) -> Column:
    """The column that an objective is about.

    Raises:
        UserError: there is none, it is nothing to optimise, or it is of the test set.
    """
    column = _COLUMNS.get(name)
    if column and "test" in column.needs:
        raise UserError(
            f"objective '{name}': selection is on validation columns only: nothing is ever "
            "selected on the test set"
        )
    if column is None or name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return column


def metric_of(name: str) -> str | None:
    """The metric that an objective is of: ``map`` of ``val_map``; None where any will do."""
    last = name.rpartition("_")[2]
    return last if last in HEADLINES else None


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """What a row of ``trials`` has of an objective; None where it has nothing."""
    if name in TRIALS:
        return row.get(name)
    return row.get("val_score") if metric_of(name) == row.get("metric") else None
