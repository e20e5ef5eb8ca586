"""The labels of Parquet files as one numbering of classes, however each file wrote them down.

Numbers mean the names that a file's Hugging Face metadata list, in its own order; text means
itself. Files that list the same names in another order are brought to the order of the first.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.data.notes import listed, shortened
from trainables.data.parquet_files import Shards, naming
from trainables.data.roles import same_name
from trainables.errors import UserError

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "coarse_label")
"""What the column of the classes may be called; the first that is there is read."""

_NO_LABEL = -1


@dataclass(frozen=True)
class Labelled:
    """The classes of a data set and every image's.

    Attributes:
        classes: names; the position is the label.
        train: int64 ``[N]``.
        test: int64 ``[M]``.
        notes: what was mapped or guessed.
    """

    classes: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...]


def features(schema: pa.Schema) -> Mapping[str, Any]:
    """What the Hugging Face metadata of a file say of its columns; empty where they do not."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def columns_of_kind(shards: Shards, kind: str) -> list[str]:
    """The columns that the metadata of the first file call a ``ClassLabel``, an ``Image``."""
    known = features(shards.schemas[0])
    return [
        name
        for name in shards.schemas[0].names
        if isinstance(known.get(name), dict) and known[name].get("_type") == kind
    ]


def label_column(shards: Shards) -> tuple[str, tuple[str, ...]]:
    """The column of the classes, and a note where others might have been meant.

    Raises:
        UserError: there is none.
    """
    kinds = columns_of_kind(shards, "ClassLabel")
    likely = [name for name in LABEL_COLUMNS if name in shards.schemas[0].names]
    likely += [name for name in kinds if name not in likely]
    if not likely or (likely[0] not in LABEL_COLUMNS and len(likely) > 1):
        raise UserError(
            f"{shards.files[0]}: expected a column {' or '.join(LABEL_COLUMNS)}, "
            f"found {listed(shards.schemas[0].names, 4)}"
        )
    if len(likely) == 1:
        return likely[0], ()
    return likely[0], (f"the classes are column {likely[0]!r}, not {listed(likely[1:])}",)


def is_unlabelled(shards: Shards, column: str) -> bool:
    """Whether no image has a label, as in the test sets of competitions: -1, or nothing."""
    for file, schema in zip(shards.files, shards.schemas, strict=True):
        if column not in schema.names:
            continue
        values = _read(file, column)
        if values.null_count == len(values):
            continue
        if not pa.types.is_integer(values.type) or pc.max(values).as_py() != _NO_LABEL:
            return False
    return True


def read_numbers(shards: Shards, column: str) -> np.ndarray:
    """Labels that are numbers, as they stand in the files: int64 ``[N]``.

    Raises:
        UserError: one is no whole number from 0; the message names file and row.
    """
    return np.concatenate([_numbers(file, column, _read(file, column)) for file in shards.files])


def read_labels(train: Shards, test: Shards, column: str) -> Labelled:
    """The labels of both sets.

    Raises:
        UserError: a label is missing or of no class, or the files disagree about the classes.
    """
    files = [*train.files, *test.files]
    columns = [_read(file, column) for file in files]
    kinds = {_kind(file, column, values): file for file, values in zip(files, columns, strict=True)}
    if len(kinds) > 1:
        found = " and ".join(f"{kind} in {file.name}" for kind, file in kinds.items())
        raise UserError(f"{files[0].parent}: column {column!r} holds {found}; expected one kind")
    if "text" in kinds:
        return _from_text(train, test, [values.to_pylist() for values in columns])
    numbers = [_numbers(file, column, values) for file, values in zip(files, columns, strict=True)]
    if all(pa.types.is_boolean(values.type) for values in columns):
        return _joined(("false", "true"), train, numbers, ())
    lists = [_names(schema, column) for schema in (*train.schemas, *test.schemas)]
    return _from_numbers(train, test, numbers, lists)


def _from_numbers(
    train: Shards,
    test: Shards,
    numbers: Sequence[np.ndarray],
    lists: Sequence[tuple[str, ...] | None],
) -> Labelled:
    files = [*train.files, *test.files]
    named = next((i for i, names in enumerate(lists) if names is not None), None)
    if named is None:
        highest = max(int(values.max(initial=0)) for values in numbers)
        if highest >= sum(train.rows):
            raise UserError(
                f"{train.files[0].parent}: label {highest} with {sum(train.rows)} training "
                f"images; expected labels from 0 to classes - 1"
            )
        names = tuple(str(label) for label in range(highest + 1))
        note = f"the files name no classes: they are called by their numbers, 0 to {highest}"
        return _joined(names, train, numbers, (note,))
    classes = lists[named]
    assert classes is not None
    mapped, nameless = [], []
    result = []
    for file, values, own in zip(files, numbers, lists, strict=True):
        if own is None:
            nameless.append(file)
        _check_named(file, values, own or classes)
        if own is not None and own != classes:
            mapped.append(file)
            values = _permutation(files[named], classes, file, own)[values]
        result.append(values)
    notes = [
        f"{_called(group)} {words}"
        for group, words in (
            (mapped, f"lists the classes differently from {files[named].name}: mapped by name"),
            (nameless, f"names no classes: its numbers are taken for those of {files[named].name}"),
        )
        if group
    ]
    return _joined(classes, train, result, tuple(notes))


def _permutation(
    first: Path, classes: tuple[str, ...], file: Path, own: tuple[str, ...]
) -> np.ndarray:
    """Where each of a file's own names stands in the order of all."""
    position = {name: label for label, name in enumerate(classes)}
    if others := [name for name in own if name not in position]:
        raise UserError(
            f"{file}: names other classes than {first.name}: {listed(others, 3)}; "
            f"there they are {listed(classes, 3)}"
        )
    for names, whose in ((classes, first), (own, file)):
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise UserError(
                f"{whose}: names {listed(twice, 3)} twice, so that the classes of {first.name} and "
                f"{file.name}, which stand in another order, cannot be matched"
            )
    return np.array([position[name] for name in own], dtype=np.int64)


def _check_named(file: Path, values: np.ndarray, names: tuple[str, ...]) -> None:
    for row in np.flatnonzero(values >= len(names))[:1].tolist():
        raise UserError(
            f"{file} row {row}: label {values[row]}, but the files name {len(names)} classes"
        )


def _from_text(train: Shards, test: Shards, columns: Sequence[list[str | None]]) -> Labelled:
    files = [*train.files, *test.files]
    for file, values in zip(files, columns, strict=True):
        for row, value in enumerate(values):
            if not value or not value.strip():
                raise UserError(f"{file} row {row}: no label, expected the name of a class")
    count = len(train.files)
    known = {str(name) for values in columns[:count] for name in values}
    unknown = sorted({str(name) for values in columns[count:] for name in values} - known)
    alike = {_spelled(name): name for name in known}
    for name in unknown:
        if other := alike.get(_spelled(name)):
            raise UserError(
                f"{test.files[0]}: class {shortened(name)!r} is written {shortened(other)!r} in "
                "the training set; expected one spelling"
            )
    if unknown and len(unknown) == len({name for values in columns[count:] for name in values}):
        raise UserError(
            f"{test.files[0]}: none of its classes is in the training set: "
            f"{listed(unknown, 3)}; there they are {listed(sorted(known), 3)}"
        )
    classes = tuple(sorted(known.union(unknown)))
    position = {name: label for label, name in enumerate(classes)}
    numbers = [
        np.array([position[str(name)] for name in values], dtype=np.int64) for values in columns
    ]
    return _joined(classes, train, numbers, ())


def _joined(
    classes: tuple[str, ...], train: Shards, numbers: Sequence[np.ndarray], notes: tuple[str, ...]
) -> Labelled:
    count = len(train.files)
    return Labelled(
        classes, np.concatenate(numbers[:count]), np.concatenate(numbers[count:]), notes
    )


def _read(file: Path, column: str) -> pa.ChunkedArray:
    """The column of a file; what is kept as a dictionary is looked up."""
    with naming(file):
        values = pq.ParquetFile(file).read(columns=[column]).column(0)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        return values


def _kind(file: Path, column: str, values: pa.ChunkedArray) -> str:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        return "text"
    several = "; an image has one class here" if pa.types.is_nested(kind) else ""
    raise UserError(
        f"{file}: column '{column}' must hold integers, text or booleans, found {kind}{several}"
    )


def _numbers(file: Path, column: str, values: pa.ChunkedArray) -> np.ndarray:
    if _kind(file, column, values) != "numbers":
        raise UserError(f"{file}: column '{column}' must hold integers, found {values.type}")
    if values.null_count:
        row = int(values.is_null().to_numpy().argmax())
        raise UserError(f"{file} row {row}: no label, expected 0 or more")
    found = values.cast(pa.int64()).to_numpy()
    if len(found) and found.min() < 0:
        row = int(found.argmin())
        raise UserError(f"{file} row {row}: label {found[row]}, expected 0 or more")
    return found


def _names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names of the classes in a file's metadata."""
    known = features(schema).get(column)
    names = known.get("names") if isinstance(known, dict) else None
    if isinstance(names, dict):  # {"0": "cat", ...}, as on the hub's cards
        names = [names[key] for key in sorted(names, key=int)]
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _called(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"each of {len(files)} files ({files[0].name} ...)"


def _spelled(name: str) -> str:
    return same_name(name).casefold().strip()
