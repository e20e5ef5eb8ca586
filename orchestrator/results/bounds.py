"""Which configs keep the constraints of their sweep's study."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.results.store import Store
from search_spaces.reading import read_yaml
from trainables.constraints import Constraint, read_constraints
from trainables.errors import UserError
from trainables.objectives import value_of

Bounds = Mapping[str, Sequence[Constraint]]
"""The constraints of studies, by sweep."""


def bounds_of(results: str, sweeps: Sequence[str]) -> dict[str, tuple[Constraint, ...]]:
    """The constraints of sweeps.

    Read without the rest of the study, which takes torch to understand.

    Raises:
        UserError: a ``study.yaml`` is damaged.
    """
    found = {}
    for sweep in sweeps:
        store = Store(results, sweep)
        if not store.folder.exists("study.yaml"):
            continue
        where = f"{store.folder}/study.yaml"
        content = read_yaml(store.read_study(), where)
        given = content.get("constraints", {}) if isinstance(content, dict) else None
        if not isinstance(given, dict):
            raise UserError(
                f"{where}: constraints: expected columns with bounds, got {given!r:.60}"
            )
        found[sweep] = read_constraints(given)
    return found


def keeping(points: pd.DataFrame, bounds: Bounds) -> pd.Series:
    """Which configs keep the constraints of their sweep.

    A config is judged by its values as they are there: means over its seeds. What it has no value
    of is not judged.

    Args:
        points: a row per config, as `front.over_seeds` gives them.
        bounds: of all sweeps.

    Returns:
        Booleans on the frame's index.
    """
    kept = [_keeps(row, bounds.get(row["sweep"], ())) for row in points.to_dict("records")]
    return pd.Series(kept, index=points.index, dtype=bool)


def _keeps(row: Mapping[Any, Any], constraints: Sequence[Constraint]) -> bool:
    values = ((one, _value(row, one.name)) for one in constraints)
    return not any(value is not None and one.excess(value) > 0 for one, value in values)


def _value(row: Mapping[Any, Any], name: str) -> Any:
    return row[name] if name in row else value_of(row, name)


def left_out(count: int) -> str:
    """What a table or a front says of those that do not; empty where there are none."""
    if not count:
        return ""
    words = (
        "config violates a constraint and is"
        if count == 1
        else "configs violate constraints and are"
    )
    return f"{count} {words} left out"
