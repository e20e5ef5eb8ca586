"""Objectives: what a study may optimise or bound, and what becomes of it in a row.

These are columns of ``trials``; the headline metric of a task under its own name: ``val_map``
is ``val_score`` of the trials whose ``metric`` is ``map``; and the latencies that a trial takes
with a runtime: ``latency_onnx_ms`` of one image, ``latency_onnx_b64_ms`` of a batch of 64.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainables.column import Column
from trainables.columns import TRIALS
from trainables.errors import UserError, unknown
from trainables.runtimes.registry import RUNTIMES
from trainables.tasks.metrics import HEADLINES

BATCHES = (1, 64)
"""Sizes of batches of which a row tells the latency."""

_PARTS = ("val", "test")
_LATENCY = re.compile(r"latency_(?P<runtime>\w+?)(_b(?P<batch>\d+))?_ms")

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
"""What a study may optimise, without the latencies by runtime."""


def check_objective(name: str, what: str = "objective") -> Column:
    """The column that an objective is about.

    Args:
        name: of the objective.
        what: it is, for errors: ``objective`` or ``constraint``.

    Raises:
        UserError: there is none, it is nothing to optimise, or it is of the test set.
    """
    column = column_of(name)
    if column and "test" in column.needs:
        raise UserError(
            f"{what} '{name}': selection is on validation columns only: nothing is ever "
            "selected on the test set"
        )
    if column is None or not column.better:
        raise unknown(what, name, [*OBJECTIVES, *_latency_names()])
    return column


def column_of(name: str) -> Column | None:
    """What is known of an objective, or any other column; None where there is none."""
    if name not in _COLUMNS and timed_with(name):
        runtime, batch = timed_with(name) or ("", 0)
        images = "one image" if batch == 1 else f"a batch of {batch}"
        words = f"of {images} by runtime {runtime}, median"
        return replace(TRIALS["latency_ms"], name=name, help=words)
    return _COLUMNS.get(name)


def timed_with(name: str) -> tuple[str, int] | None:
    """The runtime and the size of the batches that an objective is the latency of; None for
    anything else, ``latency_ms`` too."""
    found = _LATENCY.fullmatch(name)
    if found is None or found["runtime"] not in RUNTIMES:
        return None
    batch = int(found["batch"] or 1)
    if batch not in BATCHES or name != latency_name(found["runtime"], batch):
        return None
    return found["runtime"], batch


def latency_name(runtime: str, batch: int) -> str:
    """What the latency by a runtime is called: ``latency_onnx_b64_ms``."""
    return f"latency_{runtime}_ms" if batch == 1 else f"latency_{runtime}_b{batch}_ms"


def _latency_names() -> list[str]:
    return [latency_name(runtime, batch) for runtime in RUNTIMES for batch in BATCHES]


def runtimes_for(names: Iterable[str]) -> list[str]:
    """The runtimes that objectives need, each once, in their order."""
    return list(dict.fromkeys(found[0] for name in names if (found := timed_with(name))))


def metric_of(name: str) -> str | None:
    """The metric that an objective is of: ``map`` of ``val_map``; None where any will do."""
    last = name.rpartition("_")[2]
    return last if last in HEADLINES else None


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """What a row of ``trials`` has of an objective; None where it has nothing."""
    if name in TRIALS:
        return row.get(name)
    if timed := timed_with(name):
        text = row.get("latencies")
        taken = json.loads(text) if isinstance(text, str) else {}
        return taken.get(timed[0], {}).get(str(timed[1]), {}).get("median_ms")
    return row.get("val_score") if metric_of(name) == row.get("metric") else None
