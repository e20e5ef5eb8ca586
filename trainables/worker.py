"""Worker: what a process keeps between trials, how large it is, and how it lets go of it.

Data sets, teachers, their tables, compiled code and measurements outlive a trial, because the next
one asks for the same. Each kind has a `Store`; `kept` makes one of a function's results. All of
them belong to `WORKER`.
"""

from __future__ import annotations

import functools
import gc
import mmap
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from types import FunctionType
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")


class Held(NamedTuple):
    """What a process keeps of one kind.

    Attributes:
        what: the kind, in words.
        entries: how many.
        bytes: of their tensors and mapped files, in memory or not; a tensor's memory that another
            kind has counted is not counted again. Code and plain numbers count nothing.
    """

    what: str
    entries: int
    bytes: int


class Store(dict[Hashable, V]):
    """A dict that the process's worker lists and empties.

    Args:
        what: the kind of its values, in words.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        WORKER.stores.append(self)


class Worker:
    """What a process keeps between trials.

    Attributes:
        stores: all kinds.
    """

    def __init__(self) -> None:
        self.stores: list[Store[Any]] = []

    def held(self) -> list[Held]:
        """Everything that is kept, kind by kind; empty ones are left out."""
        seen: set[int] = set()
        found = []
        for store in self.stores:
            size = sum(size for value in store.values() for size in _sizes(value, seen))
            found.append(Held(store.what, len(store), size))
        return [one for one in found if one.entries]

    def release(self) -> None:
        """Lets go of everything. What a trial still uses stays until that is over."""
        for store in self.stores:
            store.clear()
        gc.collect()
        if "torch" not in sys.modules:
            return
        import torch

        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # it has tables of its own of what it made
            gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def __str__(self) -> str:
        held = (f"{one.what} {one.entries} ({one.bytes / 1e6:.1f} MB)" for one in self.held())
        return ", ".join(held) or "nothing"


WORKER = Worker()
"""This process's."""


class Kept(Generic[P, R]):
    """A function whose results are kept, those that were asked for last. Made by `kept`."""

    def __init__(self, function: Callable[P, R], what: str, entries: int) -> None:
        functools.update_wrapper(self, function)
        self._function, self._entries = function, entries
        self._store: Store[R] = Store(what)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (args, *sorted(kwargs.items()))
        known = key in self._store
        # Taken out and put in again, it is the last one.
        found = self._store.pop(key) if known else self._function(*args, **kwargs)
        self._store[key] = found
        while len(self._store) > self._entries:
            del self._store[next(iter(self._store))]
        return found

    def cache_clear(self) -> None:
        """Lets go of all of them."""
        self._store.clear()


def kept(what: str, entries: int) -> Callable[[Callable[P, R]], Kept[P, R]]:
    """Makes a process keep what a function returns, for the same arguments of the next trials.

    Args:
        what: it returns, in words.
        entries: how many are kept at most.
    """
    return lambda function: Kept(function, what, entries)


def _sizes(value: object, seen: set[int]) -> Iterator[int]:
    """Bytes of what a value holds, as far as it has not been seen."""
    from torch import Tensor

    size, place = 0, id(value)
    if isinstance(value, Tensor) and not value.is_meta:
        storage = value.untyped_storage()
        size, place = storage.nbytes(), storage.data_ptr()
    elif isinstance(value, mmap.mmap):
        size = len(value)
    if place not in seen:
        seen.add(place)
        yield size
        for part in _parts(value):
            yield from _sizes(part, seen)


def _parts(value: object) -> list[Any]:
    """What a value is made of."""
    from torch import Tensor, nn

    if isinstance(value, nn.Module):
        return [*value.parameters(), *value.buffers()]
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, list | tuple):
        return [*value]
    if isinstance(value, Tensor | type | FunctionType):
        return []
    return [*getattr(value, "__dict__", {}).values()]
