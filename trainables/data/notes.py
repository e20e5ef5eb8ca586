"""What a user should know of a data set that was read: said once by every process."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

_SHOWN = 6
_said: set[str] = set()


def say_notes(name: str, notes: Iterable[str], stream: TextIO | None = None) -> None:
    """Prints each note on a line of its own, unless this process has said it before.

    Args:
        name: of the data set.
        notes: as in `Dataset.notes`.
        stream: where to; None for stderr.
    """
    for note in notes:
        line = f"{name}: {note}"
        if line not in _said:
            _said.add(line)
            print(line, file=stream or sys.stderr)


def listed(names: Sequence[object], most: int = _SHOWN) -> str:
    """``a, b and 7 more``: a line stays a line."""
    shown = ", ".join(shortened(str(name)) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def plural(count: int, noun: str) -> str:
    """``1 image``, ``1,200 images``, ``2 classes``."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def counted(numbers: Mapping[str, int]) -> str:
    """``12 .txt, 3 .json``, the greatest number first."""
    order = sorted(numbers, key=lambda name: (-numbers[name], name))
    return listed([f"{numbers[name]:,} {name}" for name in order])


def shortened(text: str, most: int = 40) -> str:
    """The text, without its middle where it is long; never more than one line."""
    text = " ".join(text.splitlines())
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
