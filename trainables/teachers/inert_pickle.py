"""Reads a pickle as data: nothing that it names is ever imported or called.

Training scripts pickle what they have beside the weights: argparse's Namespace, numpy scalars,
configs of OmegaConf, yacs or EasyDict, whole callbacks. ``torch.load(weights_only=True)`` gives
such a file up (it builds no other mapping than ``dict``, and wants real classes for what it does
build), and unpickling is running code. Here a name of the file stays a name: the machine below
knows what an opcode does to its stack, and an instance becomes an `Object` that holds the class's
name, the arguments, and the state. A few constructors of plain data are carried out by functions
of our own, by name, in `inert_values.PLAIN`.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from trainables.teachers.inert_values import Object


class NotAPickle(ValueError):
    """The bytes are no pickle, or a damaged one."""


class Trap(NotAPickle):
    """It would run commands when it is loaded in the usual way."""


@dataclass(frozen=True)
class Global:
    """A class or function that the file names."""

    path: str


def load(
    file: BinaryIO,
    persistent: Callable[[Any], Any],
    calls: Mapping[str, Any],
    named: set[str],
) -> Any:
    """The next pickle of a file, which is left behind its end.

    Args:
        file: at the first byte.
        persistent: what a persistent id stands for.
        calls: what is carried out, by which function of ours: `PLAIN`, and what a caller adds.
        named: takes the paths of everything that the file would have called.

    Raises:
        NotAPickle: it cannot be read.
    """
    try:
        return _Machine(persistent, calls, named).run(pickletools.genops(file))
    except NotAPickle:
        raise
    except Exception as error:  # of damaged bytes, any opcode fails in its own way
        raise NotAPickle(f"{type(error).__name__}: {error}") from error


_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_MARK = object()


class _Machine:
    """A pickle's stack and memo."""

    def __init__(
        self, persistent: Callable[[Any], Any], calls: Mapping[str, Any], named: set[str]
    ) -> None:
        self.persistent = persistent
        self.calls = calls
        self.named = named
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, opcodes: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        for opcode, argument, _ in opcodes:
            name = opcode.name
            if name in _LITERALS:
                self.stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name == "STOP":
                return self.stack.pop()
            elif name not in ("PROTO", "FRAME"):
                act = getattr(self, f"on_{name.lower()}", None)
                if act is None:
                    raise NotAPickle(f"opcode {name}")
                act(argument)
        raise NotAPickle("it has no end")

    def marked(self) -> list[Any]:
        """What lies above the last mark, which goes with it."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
        above = self.stack[place + 1 :]
        del self.stack[place:]
        return above

    # Stack and memo.

    def on_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def on_pop(self, _: Any) -> None:
        self.stack.pop()

    def on_pop_mark(self, _: Any) -> None:
        self.marked()

    def on_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def on_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def on_put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    on_binput = on_long_binput = on_put

    def on_get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    on_binget = on_long_binget = on_get

    # Containers.

    def on_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.marked()))

    def on_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def on_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def on_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def on_list(self, _: Any) -> None:
        self.stack.append(self.marked())

    def on_dict(self, _: Any) -> None:
        flat = self.marked()
        self.stack.append(dict(zip(flat[::2], flat[1::2], strict=True)))

    def on_frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(self.marked()))

    def on_append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def on_appends(self, _: Any) -> None:
        self.extend(self.marked())

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        (target.elements if isinstance(target, Object) else target).extend(values)

    def on_additems(self, _: Any) -> None:
        values = self.marked()
        self.stack[-1].update(values)

    def on_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update({key: value})

    def on_setitems(self, _: Any) -> None:
        flat = self.marked()
        self.update(dict(zip(flat[::2], flat[1::2], strict=True)))

    def update(self, items: Mapping[Any, Any]) -> None:
        target = self.stack[-1]
        (target.items if isinstance(target, Object) else target).update(items)

    # Names and instances.

    def on_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Global(f"{_PYTHON_2.get(module, module)}.{name}"))

    def on_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Global(f"{_PYTHON_2.get(module, module)}.{name}"))

    def on_reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.make(function, args))

    def on_newobj(self, _: Any) -> None:
        self.on_reduce(None)

    def on_newobj_ex(self, _: Any) -> None:
        self.stack.pop()  # keywords
        self.on_reduce(None)

    def on_obj(self, _: Any) -> None:
        kind, *args = self.marked()
        self.stack.append(self.make(kind, tuple(args)))

    def on_inst(self, argument: str) -> None:
        args = tuple(self.marked())
        self.on_global(argument)
        self.stack.append(self.make(self.stack.pop(), args))

    def make(self, function: Any, args: Any) -> Any:
        """What a call stands for, which is not carried out."""
        path = function.path if isinstance(function, Global) else "unknown"
        args = args if isinstance(args, tuple) else (args,)
        self.named.add(path)
        if path in ("copyreg._reconstructor", "copyreg.__newobj__") and args:
            return self.make(args[0], ())
        return self.calls[path](*args) if path in self.calls else Object(path, args)

    def on_build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Object):
            self.stack[-1].state = state

    def on_persid(self, argument: Any) -> None:
        self.stack.append(self.persistent(argument))

    def on_binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))
