"""What a pickle read as data holds: instances that were never made, and plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(eq=False)
class Object:
    """An instance of which we know what the file says, and nothing more.

    Attributes:
        kind: the path of its class, or of the function that would have made it.
        args: what that would have been called with.
        state: what ``__setstate__`` would have got; its ``__dict__`` as a rule.
        items: of a mapping.
        elements: of a list.
    """

    kind: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


def fields(value: object) -> dict[Any, Any] | None:
    """What a mapping holds, or an object's attributes; None for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Object):
        return None
    states = value.state if isinstance(value.state, tuple) else (value.state,)  # slots: a pair
    held: dict[Any, Any] = {}
    for state in states:
        if isinstance(state, dict):
            held |= state
    return held | value.items


def array(value: object) -> np.ndarray | None:
    """The numbers of a pickled numpy array, None for anything else.

    numpy's own unpickling trusts the file, for instance about which bytes are pointers.
    """
    if not isinstance(value, Object) or not value.kind.startswith("numpy."):
        return None
    match value.kind.rpartition(".")[2], value.args, value.state:
        case "_reconstruct", _, (int(), tuple() as shape, Object() as dtype, fortran, bytes(data)):
            order = "F" if fortran else "C"
        case "_frombuffer", (bytes(data), Object() as dtype, tuple() as shape, order, *_), _:
            pass
        case _:
            return None
    plain = _dtype(dtype)
    if plain is None or not all(isinstance(size, int) for size in shape):
        return None
    return np.frombuffer(data, plain).reshape(shape, order="F" if order == "F" else "C").copy()


def _dtype(value: Object) -> np.dtype[Any] | None:
    match value.args:
        case (str() as code, *_) if code[:1] in tuple("biufc") and code[1:].isdigit():
            order = value.state[1] if isinstance(value.state, tuple) else "|"
            return np.dtype(("" if order not in (">", "<") else order) + code)
    return None


def _scalar(dtype: Any, data: Any = b"", *_: Any) -> Any:
    plain = _dtype(dtype) if isinstance(dtype, Object) else None
    if plain is None or not isinstance(data, bytes):
        return Object("numpy.scalar", (dtype, data))
    return np.frombuffer(data, plain, count=1)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "utf-8")


def _mapping(content: Any = (), *_: Any) -> dict[Any, Any]:
    return dict(content) if isinstance(content, dict | list | tuple) else {}


def _sequence(content: Any = (), *_: Any) -> list[Any]:
    return list(content) if isinstance(content, list | tuple | set | frozenset) else []


PLAIN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda *_: {},
    "builtins.dict": _mapping,
    "builtins.list": _sequence,
    "collections.deque": _sequence,
    "builtins.tuple": lambda *args: tuple(_sequence(*args)),
    "torch.Size": lambda *args: tuple(_sequence(*args)),
    "builtins.set": lambda *args: set(_sequence(*args)),
    "builtins.frozenset": lambda *args: frozenset(_sequence(*args)),
    "builtins.bytearray": lambda data=b"", *_: bytes(data) if isinstance(data, bytes) else b"",
    "builtins.bytes": lambda data=b"", *_: bytes(data) if isinstance(data, bytes) else b"",
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
"""What stands for plain data, with functions of our own that can do nothing else."""
