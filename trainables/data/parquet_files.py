"""Which Parquet files are the training and which the test set, by their names and folders.

Files stand together (``train-00000-of-00002-1f3c.parquet``) or in a folder for each part
(``default/train/0000.parquet``). Files that are no shards of one another are never joined.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.notes import listed
from trainables.data.roles import ROLES, TEST, TRAIN, WORDS, role_of
from trainables.data.walk import identity, scan
from trainables.errors import UserError

_ENDING = ".parquet"
_BEGINS = re.compile("(train|test)")
_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![a-z])")
_OF = re.compile(r"^(?P<base>.*?)[-_.]?(?P<number>\d+)[-_]of[-_](?P<total>\d+)(?P<hash>[-_.]\w+)?$")
_SPARK = re.compile(r"^part-(?P<number>\d+)(?P<base>-.+)$")
_NUMBERED = re.compile(r"^(?P<base>.*?)(?P<number>\d+)$")
_WHOLE, _UNKNOWN = "whole", "unknown"


@dataclass(frozen=True)
class Shards:
    """The Parquet files of one split, in order.

    Attributes:
        split: ``"train"``, ``"test"`` or ``"validation"``.
        files: sorted by name.
        rows: row count of each file.
        schemas: of each file.
    """

    split: str
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    schemas: tuple[pa.Schema, ...]

    @cached_property
    def ends(self) -> np.ndarray:
        """The first row behind each file."""
        return np.cumsum(self.rows)

    def locate(self, row: int) -> str:
        """File and row within it, for errors, of row ``row`` of the split."""
        (file,) = self.holding(row, row + 1)
        return f"{file} row {row - sum(self.rows[: self.files.index(file)])}"

    def holding(self, start: int, stop: int) -> list[Path]:
        """The files that hold any of the rows ``start .. stop - 1``."""
        begins = self.ends - self.rows
        return [
            file
            for file, begin, end in zip(self.files, begins, self.ends, strict=True)
            if begin < stop and end > start
        ]

    def column(self, candidates: Sequence[str]) -> str | None:
        """The first of these columns that the first file has."""
        names = self.schemas[0].names
        return next((column for column in candidates if column in names), None)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Every file has these columns.

        Raises:
            UserError: naming the file.
        """
        for file, schema in zip(self.files, self.schemas, strict=True):
            for column in columns:
                if schema.names.count(column) != 1:
                    raise UserError(
                        f"{file}: expected the columns of {self.files[0].name} "
                        f"({listed(columns)}), found {listed(schema.names)}"
                    )


@dataclass(frozen=True)
class Parts:
    """What a folder holds: the files of each role, not yet opened.

    Attributes:
        folder: that all of it lies in.
        files: of each role that is there, sorted; those of one set of shards or of several.
        others: Parquet files of no role, and folders that hold some.
    """

    folder: Path
    files: Mapping[str, tuple[Path, ...]]
    others: tuple[str, ...]

    def named(self, role: str) -> str:
        """What a role's files are called, in few words; empty where there are none."""
        return listed([str(file.relative_to(self.folder)) for file in self.files.get(role, ())], 1)


def folder_with_shards(folder: Path) -> Path | None:
    """The first folder, ``folder`` itself or below it, that holds a training set."""
    found = folders_with_shards(folder)
    return found[0] if found else None


def folders_with_shards(folder: Path) -> list[Path]:
    """``folder`` where it holds a training set itself, else all folders below it that do."""
    return [folder] if TRAIN in find_parts(folder).files else sorted(_below(folder, frozenset()))


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    above |= {identity(folder)}
    for name in _folders_in(folder):
        child = folder / name
        if identity(child) in above:
            continue  # a link that leads back
        if TRAIN in find_parts(child).files:
            yield child
        else:
            yield from _below(child, above)


def find_parts(folder: Path) -> Parts:
    """The Parquet files of ``folder`` by role: its own, and those in ``train/``, ``test/``, ..."""
    found: dict[str, list[Path]] = defaultdict(list)
    others = []
    for name in _parquet_in(folder):
        if role := _role_of_file(name):
            found[role].append(folder / name)
        else:
            others.append(name)
    for child in _folders_in(folder):
        inside = _parquet_in(folder / child)
        if role := role_of(child.lower().removesuffix(_ENDING)):
            found[role] += [folder / child / name for name in inside]
        elif inside:
            others.append(f"{child}/")
    return Parts(folder, {role: tuple(found[role]) for role in ROLES if found[role]}, tuple(others))


def find_shards(folder: Path, split: str) -> Shards:
    """The files of a role in ``folder``, all there and readable.

    Raises:
        UserError: none is there; one of ``...-of-000NN`` is missing; some are no shards of the
            others, so that it is not clear which are meant; or one is not Parquet.
    """
    parts = find_parts(folder)
    if split not in parts.files:
        raise UserError(f"{folder}: expected {split}*.parquet, found none")
    return open_shards(parts, split)


def open_shards(parts: Parts, split: str) -> Shards:
    """As `find_shards`, of a role that is there."""
    files = parts.files[split]
    _check_one_set(parts.folder, split, files)
    opened = []
    for file in files:
        with naming(file):
            opened.append(pq.ParquetFile(file))
    rows = tuple(parquet.metadata.num_rows for parquet in opened)
    if not sum(rows):
        raise UserError(f"{files[0]}: holds no rows")
    return Shards(split, files, rows, tuple(parquet.schema_arrow for parquet in opened))


def _check_one_set(folder: Path, split: str, files: Sequence[Path]) -> None:
    """The files are the shards of one set, each once, and none is missing."""
    sets: dict[tuple[Path, str, str], dict[int, Path]] = defaultdict(dict)
    for file in files:
        base, number, total = _shard(file.name)
        shards = sets[file.parent, base, total]
        if number in shards:
            _refuse(folder, split, shards[number], file)
        shards[number] = file
    if len(sets) > 1:
        _refuse(folder, split, *(next(iter(shards.values())) for shards in sets.values()))
    ((_, _, total), shards), *_ = sets.items()
    if total == _WHOLE or (total == _UNKNOWN and len(shards) == 1):
        return
    count = len(shards) if total == _UNKNOWN else int(total)
    first = 0 if 0 in shards or (total != _UNKNOWN and count not in shards) else 1
    known = next(iter(shards.values()))
    for number in range(first, first + count):
        if number not in shards:
            raise UserError(f"{_sibling(known, number)}: missing, but {known.name} is there")
    for number, file in shards.items():
        if number >= first + count:
            raise UserError(f"{file}: its number is beyond the {count} files of its name")


def _refuse(folder: Path, split: str, *files: Path) -> None:
    names = listed([str(file.relative_to(folder)) for file in files], 4)
    kind = {TRAIN: "training"}.get(split, split)
    raise UserError(
        f"{folder}: {names} are no shards of one another, and each could be the {kind} set; "
        "move all but one set away"
    )


def _shard(name: str) -> tuple[str, int, str]:
    """``(base, number, total)``: shards of one set differ in the number alone."""
    stem = name.lower().removesuffix(_ENDING)
    if match := _OF.match(stem):
        return match["base"], int(match["number"]), str(int(match["total"]))
    if match := _SPARK.match(stem) or _NUMBERED.match(stem):
        return match["base"], int(match["number"]), _UNKNOWN
    return stem, 0, _WHOLE


def _sibling(file: Path, number: int) -> Path:
    """What another shard is called, as far as this one tells."""
    stem = file.name[: -len(_ENDING)]
    match = _OF.match(stem)
    if match and match["hash"]:
        stem = f"{stem[: match.end('total')]}-*"
    match = match or _SPARK.match(stem) or _NUMBERED.match(stem)
    assert match is not None
    start, end = match.span("number")
    return file.with_name(f"{stem[:start]}{number:0{end - start}d}{stem[end:]}{_ENDING}")


def _role_of_file(name: str) -> str | None:
    """The role of a file: by how its name begins, else by a word in it."""
    stem = name.lower().removesuffix(_ENDING)
    if match := _BEGINS.match(stem):
        return {"train": TRAIN, "test": TEST}[match[1]]
    roles = {WORDS[word] for word in _WORD.findall(stem)}
    return roles.pop() if len(roles) == 1 else None


def _parquet_in(folder: str | Path) -> list[str]:
    return [
        entry.name
        for entry in scan(folder)
        if entry.name.lower().endswith(_ENDING) and entry.is_file() and entry.name[0] != "."
    ]


def _folders_in(folder: str | Path) -> list[str]:
    return [entry.name for entry in scan(folder) if entry.is_dir() and entry.name[0] != "."]


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into an error that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: not a readable Parquet file ({reason})") from error
