"""The Parquet store of a sweep: one explicit schema and a durable writer.

``RESULTS/SWEEP/trials/*.parquet`` has a row per attempt that ended, ``epochs/*.parquet`` one per
(trial, attempt, epoch), ``proposals/*.parquet`` one per config that a search has drawn. A row is on
disk, in a whole file, before the call that wrote it says so; what cannot be written stays buffered.
"""

import logging
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.results.parts import Parts
from trainables.columns import COLUMNS, TableName
from trainables.errors import UserError, unknown
from trainables.files import Folder, open_folder

log = logging.getLogger(__name__)

SCHEMA_VERSION = 8
"""Raised whenever a table or a column is added; columns are never renamed, retyped or removed."""

_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    datetime: pa.timestamp("us", tz="UTC"),
}

SCHEMAS: dict[TableName, pa.Schema] = {
    table: pa.schema([(column.name, _TYPES[column.kind]) for column in columns.values()])
    for table, columns in COLUMNS.items()
}
"""What the columns mean: see `trainables.columns`."""

_ORDER: tuple[TableName, ...] = ("proposals", "epochs", "trials")
"""In which buffered rows are written: a proposal before its trials, a trial after its epochs."""

_KEYS: dict[TableName, list[str]] = {
    "trials": ["sweep", "trial_id", "attempt"],
    "epochs": ["sweep", "trial_id", "attempt", "epoch"],
    "proposals": ["sweep", "number"],
}
_SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Store:
    """The results of one sweep. One thread writes; any number of processes may read meanwhile.

    Args:
        results: the results folder or URI.
        sweep: the sweep's name, a folder in it. Nothing is made before the first write.
        flush_seconds: how long an epoch row may wait in memory for `maybe_flush`.

    Raises:
        UserError: ``results`` cannot be opened, or ``sweep`` is no name for a folder.
    """

    def __init__(self, results: str | Path | Folder, sweep: str, flush_seconds: float = 10.0):
        if not _SWEEP_NAME.fullmatch(sweep):
            shown = sweep if len(sweep) <= 60 else f"{sweep[:57]}..."
            expected = f"at most 200 characters, got {len(sweep)}"
            if len(sweep) <= 200:
                expected = "letters, digits, '.', '_' and '-', the first a letter or a digit"
            raise UserError(f"sweep name '{shown}': expected {expected}")
        self.results = open_folder(results)
        self.sweep = sweep
        self.folder = self.results / sweep
        self._flush_seconds = flush_seconds
        self._last_flush = time.monotonic()
        self._failing = False
        self._tables = {table: self._parts(table) for table in _ORDER}

    def _parts(self, table: TableName) -> Parts:
        place = {"sweep": self.sweep}
        return Parts(self.folder / table, SCHEMAS[table], SCHEMA_VERSION, _KEYS[table], place)

    @property
    def pending(self) -> int:
        """How many rows are not on disk yet."""
        return sum(parts.rows for parts in self._tables.values())

    def add_proposal(self, row: Mapping[str, Any]) -> None:
        """Buffer a proposal, over what was known of its number; the next flush writes it.

        Args:
            row: columns of the ``proposals`` schema; ``sweep`` is filled in, missing ones are null.

        Raises:
            TypeError: the row has a column that the schema has not.
        """
        self._tables["proposals"].add([{"sweep": self.sweep, **row}])

    def add_epochs(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Buffer epoch rows; `maybe_flush`, `flush` or the next `add_trial` writes them.

        Args:
            rows: columns of the ``epochs`` schema; ``sweep`` is filled in, missing ones are null.

        Raises:
            TypeError: a row has a column that the schema has not.
        """
        self._tables["epochs"].add({"sweep": self.sweep, **row} for row in rows)

    def add_trial(self, row: Mapping[str, Any]) -> bool:
        """Write a trial's row, after all that is buffered.

        Args:
            row: columns of the ``trials`` schema; ``sweep`` and ``schema_version`` are filled in,
                missing ones are null.

        Returns:
            Whether everything is on disk; if not, the rows stay buffered (see `flush`).

        Raises:
            TypeError: the row has a column that the schema has not.
        """
        known = {"sweep": self.sweep, "schema_version": SCHEMA_VERSION}
        self._tables["trials"].add([{**known, **row}])
        return self.flush()

    def maybe_flush(self) -> bool:
        """`flush` if the last one is more than ``flush_seconds`` ago. Cheap to call often.

        Returns:
            Whether the last flush succeeded.
        """
        if self.pending and time.monotonic() - self._last_flush >= self._flush_seconds:
            return self.flush()
        return not self._failing

    def flush(self) -> bool:
        """Write all buffered rows; the next call tries again what could not be written.

        Returns:
            Whether everything is on disk.
        """
        self._last_flush = time.monotonic()
        try:
            for parts in self._tables.values():
                parts.flush()
        except OSError as error:
            if not self._failing:
                log.error(
                    "results cannot be written to %s (%s); %d rows wait in memory until the disk "
                    "has space or the store answers again",
                    *(self.folder, error, self.pending),
                )
            self._failing = True
            return False
        if self._failing:
            log.warning("results can be written to %s again; no row was lost", self.folder)
        self._failing = False
        return True

    def compact(self) -> None:
        """Merge each table's part files into one. Readers may read meanwhile.

        Raises:
            UserError: a part file is damaged; nothing of its table was deleted.
            OSError: a merged file could not be written; nothing of its table was deleted.
        """
        for parts in self._tables.values():
            parts.compact()

    def read(self, table: TableName) -> pa.Table:
        """Every attempt's rows on disk, each once, oldest first.

        Raises:
            UserError: there is no such sweep, or a part file is damaged.
        """
        self._check_exists()
        return self._tables[table].read()

    def save_study(self, text: str) -> None:
        """Write the resolved study as ``study.yaml``.

        Raises:
            OSError: it could not be written.
        """
        self.folder.write("study.yaml", text.encode())

    def read_study(self) -> str:
        """The text of ``study.yaml``.

        Raises:
            UserError: there is no such sweep, or it has no study, or none that can be read.
        """
        self._check_exists()
        try:
            return self.folder.read("study.yaml").decode()
        except FileNotFoundError as error:
            raise UserError(f"{self.folder}/study.yaml is missing") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self.folder}/study.yaml is no text: {error}") from error
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.folder}/study.yaml cannot be read: {reason}") from error

    @staticmethod
    def sweeps(results: str | Path | Folder) -> list[str]:
        """Sorted names of the sweeps in a results folder."""
        folder = open_folder(results)
        names = [name for name in folder.folders() if _SWEEP_NAME.fullmatch(name)]
        return [name for name in names if _is_sweep(folder / name)]

    @staticmethod
    def strangers(results: str | Path | Folder) -> list[str]:
        """Sorted names of folders that look like sweeps, under a name that no sweep can have."""
        folder = open_folder(results)
        names = [name for name in folder.folders() if not _SWEEP_NAME.fullmatch(name)]
        return [name for name in names if _is_sweep(folder / name)]

    @staticmethod
    def newest(results: str | Path | Folder) -> str:
        """The sweep whose study was written last.

        Raises:
            UserError: there is none.
        """
        folder = open_folder(results)
        sweeps = [name for name in Store.sweeps(folder) if (folder / name).exists("study.yaml")]
        if not sweeps:
            raise UserError(f"{folder} has no sweeps; start one with `kdsweep run STUDY`")
        return max(sweeps, key=lambda name: (folder / name).modified("study.yaml"))

    def _check_exists(self) -> None:
        if _is_sweep(self.folder):
            return
        known = self.sweeps(self.results)
        if not known:
            raise UserError(f"unknown sweep '{self.sweep}': {self.results} has no sweeps")
        raise unknown("sweep", self.sweep, known)


def _is_sweep(folder: Folder) -> bool:
    return folder.exists("study.yaml") or not SCHEMAS.keys().isdisjoint(folder.folders())
