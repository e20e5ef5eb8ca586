"""Registry: things by name, ours and other packages', loaded when somebody asks for one."""

import ast
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from trainables.errors import UserError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind, by name.

    Names are known without loading anything. A package of somebody else adds a thing by an entry
    point in the kind's group; a name of ours stays ours.

    Args:
        kind: what they are, for errors.
        group: of the entry points.
        own: ours: the thing itself, or where it is, as ``module:attribute``.
        also: further names that errors count among the right ones.
    """

    def __init__(
        self, kind: str, group: str, own: Mapping[str, T | str], also: tuple[str, ...] = ()
    ) -> None:
        self._kind, self._group, self._own, self._also = kind, group, own, also

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *(name for name in _others(self._group) if name not in self._own)])

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in _others(self._group)

    def check(self, name: str) -> None:
        """Whether there is such a thing.

        Raises:
            UserError: there is none; it names the nearest.
        """
        if name not in self:
            raise unknown(self._kind, name, [*self, *self._also])

    def __getitem__(self, name: str) -> T:
        """The thing of a name, loaded.

        Raises:
            UserError: there is none, or the package that offers it cannot be loaded.
        """
        self.check(name)
        own = self._own.get(name)
        if own is not None and not isinstance(own, str):
            return own
        point = self._point(name)
        try:
            found: T = point.load()
        except Exception as error:  # somebody else's module may raise anything
            if own is not None:
                raise
            line = f"{type(error).__name__}: {error}".partition("\n")[0]
            place = f"{self._kind} '{name}' of another package ({point.value})"
            raise UserError(f"{place} cannot be loaded: {line}"[:290]) from error
        return found

    def get(self, name: str) -> T | None:
        """The thing of a name; None where there is none."""
        if name not in self:
            return None
        return self[name]

    def values(self) -> Iterator[T]:
        """The things one by one, ours first."""
        return (self[name] for name in self)

    def title(self, name: str) -> str:
        """What a thing is, by the first line of its file, which is read and not run."""
        spec = importlib.util.find_spec(self._point(name).module)
        source = Path(spec.origin).read_bytes() if spec and spec.origin else b""
        text = ast.get_docstring(ast.parse(source)) or ""
        line = text.partition("\n")[0].rstrip(".")
        return line.partition(": ")[2] or line

    def _point(self, name: str) -> EntryPoint:
        place = self._own.get(name)
        if isinstance(place, str):
            return EntryPoint(name, place, self._group)
        return _others(self._group)[name]


@functools.cache
def _others(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
