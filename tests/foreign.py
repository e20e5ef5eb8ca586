"""Packages of somebody else, as if they had been installed."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search_spaces import dimension
from trainables import registry
from trainables.compression.registry import part_class
from trainables.data.sources import load_dataset
from trainables.methods.registry import term_class

LOOK_UPS = (
    registry._others,
    term_class,
    part_class,
    dimension.chain_keys,
    load_dataset.__globals__["_load"],
)
"""What a process remembers of the packages that are there."""


def install(folder: Path, module: str, code: str, points: str) -> Path:
    """Puts a package of one module into a folder.

    Args:
        folder: is made if need be, and returned.
        module: its name.
        code: of it.
        points: its entry points.
    """
    facts = folder / f"{module}-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / f"{module}.py").write_text(code.lstrip())
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(points)
    return folder


@contextmanager
def present(folder: Path, module: str) -> Iterator[None]:
    """The package is there in this process, and nothing of it is remembered afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        _forget()
        yield
        sys.modules.pop(module, None)
    _forget()


@contextmanager
def known_to_workers(folder: Path, sites: Path) -> Iterator[None]:
    """The package is there in the workers that the shared Ray starts meanwhile.

    Args:
        folder: of the package.
        sites: the fixture of that name.
    """
    links = [sites / entry.name for entry in folder.iterdir() if entry.name != "__pycache__"]
    for link in links:
        link.symlink_to(folder / link.name)
    yield
    for link in links:
        link.unlink()


def _forget() -> None:
    for cache in LOOK_UPS:
        cache.cache_clear()
