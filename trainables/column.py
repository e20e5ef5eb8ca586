"""Column: what is known of one column of a table, and the records that have some."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

Kind = type[str] | type[int] | type[float] | type[datetime]
Direction = Literal["max", "min"]
Role = Literal["identity", "setting", "fact", "measured", "result"]
Need = Literal["teacher", "peers", "validation", "test", "explainers", "masks"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What is known of one column.

    Attributes:
        name: as SQL has it.
        kind: of its values; any may be missing.
        role: ``identity`` (which attempt at which trial it is), ``setting`` (what was asked for),
            ``fact`` (of the machine and the networks: the same for every seed, unless a step of
            the compression made the students differ), ``measured`` (a number of the student that
            was trained: it differs from seed to seed, and is averaged over seeds) or ``result``
            (what else became of the trial).
        help: one line.
        unit: empty where it has none.
        better: which end is the better one; None where there is none: no objective.
        needs: what a trial must have for a value: a teacher, peers, validation images, or the
            test set, on which nothing is ever selected; explainers, masks of its images.
    """

    name: str
    kind: Kind
    role: Role
    help: str
    unit: str = ""
    better: Direction | None = None
    needs: tuple[Need, ...] = ()


def column(
    role: Role,
    help: str,
    *needs: Need,
    unit: str = "",
    better: Direction | None = None,
) -> Any:
    """A field of a `Row` that carries a `Column`; arguments as its attributes."""
    facts = {"role": role, "help": help, "needs": needs, "unit": unit, "better": better}
    return dataclasses.field(default=None, metadata=facts)


@dataclasses.dataclass(slots=True)
class Row:
    """A row of a table: its columns are its fields, made by `column`."""

    def known(self) -> dict[str, Any]:
        """The columns that have a value, as the store takes them."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in values if value is not None}


@functools.cache
def columns_of(row: type) -> Mapping[str, Column]:
    """The columns of a kind of row by name, in the order of its table."""
    hints = typing.get_type_hints(row)
    found = {}
    for field in dataclasses.fields(row):
        kind = typing.get_args(hints[field.name])[0]
        found[field.name] = Column(name=field.name, kind=kind, **field.metadata)
    return types.MappingProxyType(found)
