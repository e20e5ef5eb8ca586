"""One table as a folder of Parquet part files: written one by one, merged, read as one.

Parquet has no append, so every flush writes a new part. Merging writes the merged file first and
deletes afterwards, and rows carry a key, so that a reader that meets both sees each row once.
"""

import itertools
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.errors import UserError
from trainables.files import Folder

log = logging.getLogger(__name__)

MAX_PARTS = 256
"""A flush that leaves more files than this merges them."""

_MAGIC = b"PAR1"
"""How a Parquet file begins and ends. What is in it is only told at its end."""

_VERSION_KEY = b"kdsweep_schema_version"
_counter = itertools.count()


class Foreign(UserError):
    """A file that somebody else put among the parts of a table."""


class Parts:
    """The part files of one table, and the buffer of the next one.

    Args:
        folder: where the files lie; the first flush makes it.
        schema: the columns. Files of an older version lack some, which read as null.
        version: of the schema; files of a newer version are refused.
        key: columns that identify a row. The last row written under a key counts.
        place: text columns whose values follow from where the files lie, whatever the rows say:
            folders are renamed and copied.
    """

    def __init__(
        self,
        folder: Folder,
        schema: pa.Schema,
        version: int,
        key: Sequence[str],
        place: Mapping[str, str] | None = None,
    ):
        self.folder = folder
        self.schema = schema.with_metadata({_VERSION_KEY: str(version)})
        self.version = version
        self.key = list(key)
        self.place = dict(place or {})
        self._buffer: list[pa.Table] = []
        self._name = ""
        self._files: int | None = None

    @property
    def rows(self) -> int:
        """How many rows are buffered."""
        return sum(table.num_rows for table in self._buffer)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Buffer rows; missing columns are null.

        Raises:
            TypeError: a row has a column that the schema has not, or a value of another type.
        """
        rows = list(rows)
        wrong = {name for row in rows for name in row} - set(self.schema.names)
        if wrong:
            raise TypeError(f"{self.folder} has no column {', '.join(sorted(wrong))}")
        if rows:
            self._buffer.append(pa.Table.from_pylist(rows, self.schema))

    def flush(self) -> None:
        """Write the buffered rows as a new part.

        Raises:
            OSError: the part could not be written; its rows stay buffered.
        """
        if not self._buffer:
            return
        # One name until it succeeds: a put whose answer got lost is overwritten, not doubled.
        self._name = self._name or _new_name("part", time.time_ns())
        self.folder.write(self._name, _encode(pa.concat_tables(self._buffer)))
        self._buffer.clear()
        self._name = ""
        self._files = 1 + (self._files or 0)
        self._merge_if_many()

    def _merge_if_many(self) -> None:
        try:
            if self._files == 1:  # the first part of this process: others may have left some
                self._files = len(self.folder.names(".parquet"))
            if self._files is not None and self._files > MAX_PARTS:
                self.compact()
        except (OSError, UserError) as error:
            log.warning("%s could not be compacted: %s; its rows are safe", self.folder, error)
            self._files = 1

    def compact(self) -> None:
        """Merge all files into one.

        Raises:
            UserError: a file is damaged; nothing was deleted.
            OSError: the merged file could not be written; nothing was deleted.
        """
        table, names = self._read()
        if len(names) > 1:
            # As old as its newest part, so that a later part of the same key still wins.
            self.folder.write(_new_name("merged", _age(names[-1])), _encode(table))
            for name in names:
                self.folder.delete(name)
        self._files = min(len(names), 1)

    def read(self) -> pa.Table:
        """The rows on disk, one per key, oldest first.

        Raises:
            UserError: a file is damaged; the message names it.
        """
        return self._read()[0]

    def _read(self) -> tuple[pa.Table, list[str]]:
        """The rows, and the files they came from, oldest first.

        A compaction may replace files meanwhile. One that vanished means that the listing is
        old, and so does a merged file that appeared: its parts may have gone while we listed.
        """
        while True:
            names = sorted(self.folder.names(".parquet"), key=lambda name: (_age(name), name))
            try:
                with ThreadPoolExecutor(16) as pool:
                    decoded = dict(zip(names, pool.map(self._decode, names), strict=True))
            except FileNotFoundError:
                continue
            now = self.folder.names(".parquet")
            if {name for name in now if name.startswith("merged-")} <= set(names):
                break
        whole = {name: table for name, table in decoded.items() if table is not None}
        names, tables = list(whole), list(whole.values())
        table = pa.concat_tables([self.schema.empty_table(), *tables])
        return (last_per_key(table, self.key) if len(names) > 1 else table), names

    def _decode(self, name: str) -> pa.Table | None:
        """A file's rows; None where it is the beginning of one, whose upload broke off."""
        data = self.folder.read(name)
        begun, ended = _MAGIC.startswith(data[:4]), data.endswith(_MAGIC)
        if not self.folder.is_local and begun and not ended:
            # Its writer was never told that it was done, so that no row of it counts. On a disk a
            # file gets its name when it is whole: there this would be damage.
            log.warning("%s/%s is passed over: its upload broke off", self.folder, name)
            return None
        try:
            source = pa.BufferReader(data)
            table = pq.ParquetFile(source, page_checksum_verification=True).read()
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.folder}/{name} is damaged: {reason}") from error
        version = (table.schema.metadata or {}).get(_VERSION_KEY, b"")
        if not version.isdigit():
            raise Foreign(f"{self.folder}/{name} was not written by kdsweep; move it away")
        if int(version) > self.version:
            raise UserError(
                f"{self.folder}/{name} has schema version {int(version)}; this kdsweep reads up "
                f"to version {self.version}: update it"
            )
        complete = table if table.schema.equals(self.schema) else self._complete(table)
        return self._placed(complete)

    def _placed(self, table: pa.Table) -> pa.Table:
        for name, value in self.place.items():
            column = pa.repeat(pa.scalar(value, pa.string()), len(table))
            table = table.set_column(self.schema.get_field_index(name), name, column)
        return table.cast(self.schema)

    def _complete(self, table: pa.Table) -> pa.Table:
        """A table of an older schema version in the columns of this one."""
        columns = [
            table[field.name] if field.name in table.column_names else pa.nulls(len(table))
            for field in self.schema
        ]
        return pa.table(columns, names=self.schema.names).cast(self.schema)


def last_per_key(table: pa.Table, key: list[str]) -> pa.Table:
    """The last row of each key, in the order of the table."""
    position = pa.array(np.arange(len(table)))
    last = table.select(key).append_column("position", position)
    last = last.group_by(key).aggregate([("position", "max")])
    return table.take(last["position_max"].sort())


def _new_name(kind: str, time_ns: int) -> str:
    return f"{kind}-{time_ns}-{os.getpid()}-{next(_counter)}.parquet"


def _age(name: str) -> int:
    """The ``time_ns`` in a file's name; 0 for a file that somebody put there."""
    match = re.match(r"(?:part|merged)-(\d+)-", name)
    return int(match.group(1)) if match else 0


def _encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())
