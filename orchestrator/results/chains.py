"""Compressions as rows name them; their parts may be of packages that are not installed here."""

import json
from typing import Any

from trainables.compression.registry import CHOICES


def steps_of(compression: str) -> list[str]:
    """The steps of a chain. A choice that another package brings counts as one of them."""
    names = compression.split("+")
    return names[1:] if names[0] in CHOICES else names


def told(compression: Any, config: Any) -> str:
    """What the steps of a chain do, in words that follow its student: ``" + prune 0.5"``.

    Args:
        compression: as a row has it; nothing is told of a missing one.
        config: of the row, JSON; steps whose amount it does not have are told by name.
    """
    if not isinstance(compression, str):
        return ""
    settings = json.loads(config) if isinstance(config, str) else {}
    amounts = {step: settings.get(step) for step in steps_of(compression)}
    return "".join(
        f" + {step}" if amount is None else f" + {step} {_short(amount)}"
        for step, amount in amounts.items()
    )


def model_of(student: Any) -> Any:
    """The model that a row's student was built as, before steps changed it."""
    return student.partition("~")[0] if isinstance(student, str) else student


def _short(amount: Any) -> str:
    return f"{amount:g}" if isinstance(amount, float) else str(amount)
