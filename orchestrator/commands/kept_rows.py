"""Rows of a list that take seconds to make and follow from our code alone: kept on disk."""

import contextlib
import gc
import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from orchestrator.sweeps.surroundings import ROOT
from trainables.cache_root import cache_root

SOURCES = ("trainables", "orchestrator/commands")

Row = tuple[str, ...]


def kept_rows(
    title: str, names: Iterable[str], ours: Collection[str], make: Callable[[str], Row]
) -> list[Row]:
    """The rows of these names; what this machine has made before is read.

    A file holds for the very code, Python and torch that made it. Where it cannot be read or
    written, rows are made and nothing is said.

    Args:
        title: of the list, and of its file in `cache_root`.
        names: of the rows.
        ours: names whose rows follow from our code; the others are made anew each time.
        make: makes a row.
    """
    code, file, kept = _code(), None, {}
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        file = cache_root() / f"{title}.json"
        kept = _read(file.read_text(), code)
    with _seldom_collected():
        rows = {name: kept[name] if name in kept else make(name) for name in names}
    fresh = {name: row for name, row in rows.items() if name in ours}
    if file is not None and not fresh.keys() <= kept.keys():
        with contextlib.suppress(OSError):
            _write(file, json.dumps({"code": code, "rows": kept | fresh}))
    return list(rows.values())


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Python looks for garbage while torch is imported, and a fifth of that time is spent so."""
    usual = gc.get_threshold()
    gc.set_threshold(100_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _read(text: str, code: str) -> dict[str, Row]:
    """The rows of a file that this code has made; of another file none."""
    match json.loads(text):
        case {"code": found, "rows": dict(rows)} if found == code:
            return {
                name: tuple(map(str, row)) for name, row in rows.items() if isinstance(row, list)
            }
    return {}


def _code() -> str:
    """What the rows follow from."""
    digest = hashlib.sha256(f"{sys.version} {version('torch')}".encode())
    for folder in SOURCES:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(file)
