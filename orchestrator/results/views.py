"""Reading results: DataFrames, and SQL on a DuckDB connection that can read nothing else."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa

from orchestrator.results.parts import Foreign
from orchestrator.results.store import SCHEMAS, Store
from trainables.columns import TableName
from trainables.errors import UserError
from trainables.files import Folder, open_folder

# What a trial's row is superseded by: the same trial, or the same epoch of it, tried again.
_LATEST = {"trials": "sweep, trial_id", "epochs": "sweep, trial_id, epoch"}

# No external access closes files, the network, extensions and Python's variables alike. Without
# a temporary folder nothing is spilled to the disk on which somebody happens to stand.
_SETTINGS = {
    "TimeZone": "'UTC'",
    "temp_directory": "''",
    "enable_external_access": "false",
    "lock_configuration": "true",
}

MEMORY = 4 * 2**30
"""Bytes that a query may take beside the results; less on a small machine."""

_BATCH_ROWS = 100_000
# How a statement that reads begins, where DuckDB's own kinds do not tell; and what may come first.
_EXPLAIN = re.compile(r"\s*explain\s+(\([^)]*\)\s*)?(analyze\s+|verbose\s+)*", re.IGNORECASE)
_COMMENT = re.compile(r"\A(\s+|--[^\n]*(\n|\Z)|/\*.*?\*/)*", re.DOTALL)

log = logging.getLogger(__name__)


def connect(
    results: str | Path | Folder, sweeps: Sequence[str] | None = None, *, epochs: bool = True
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection to a snapshot of the results, locked against everything else.

    Views ``trials`` and ``epochs`` hold the last attempt; ``trials_all`` and ``epochs_all`` every
    attempt. Files, the network, extensions, Python variables and settings are out of reach.

    Args:
        results: the results folder or URI.
        sweeps: names of the sweeps to read; None reads all, and passes over folders that only
            look like sweeps, with a note.
        epochs: False leaves the epochs empty, which is quicker.

    Raises:
        UserError: a sweep does not exist, or one of its files is damaged.
    """
    folder = open_folder(results)
    tables: dict[TableName, list[pa.Table]] = {"trials": [], "epochs": []}
    for name in dict.fromkeys(_sweeps(folder) if sweeps is None else sweeps):
        store = Store(folder, name)
        try:
            read = {table: store.read(table) for table in tables if epochs or table == "trials"}
        except Foreign as error:
            if sweeps is not None or (folder / name).exists("study.yaml"):
                raise  # of a sweep into which somebody put a file, half an answer would be wrong
            log.warning("%s/%s is passed over: it is no sweep; %s", folder, name, error)
            continue
        for table, rows in read.items():
            tables[table].append(rows)
    if not tables["trials"]:
        raise UserError(f"no sweeps in {folder}; name the right folder with --results")
    connection = duckdb.connect(":memory:")
    for table, parts in tables.items():
        _load(connection, table, parts)
    held = sum(rows.nbytes for parts in tables.values() for rows in parts)
    limit = {"memory_limit": f"'{(2 * held + _memory()) // 2**20} MiB'"}
    for setting, value in (limit | _SETTINGS).items():
        connection.execute(f"SET {setting} = {value}")
    return connection


def _sweeps(folder: Folder) -> list[str]:
    for name in Store.strangers(folder):
        log.warning("%s/%s is passed over: that is no name of a sweep", folder, name)
    return Store.sweeps(folder)


def _memory() -> int:
    return min(MEMORY, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _load(
    connection: duckdb.DuckDBPyConnection, table: TableName, parts: Sequence[pa.Table]
) -> None:
    connection.register("loading", pa.concat_tables([SCHEMAS[table].empty_table(), *parts]))
    connection.execute(f"CREATE TABLE {table}_all AS FROM loading")
    connection.unregister("loading")
    connection.execute(
        f"CREATE VIEW {table} AS FROM {table}_all QUALIFY row_number() OVER "
        f"(PARTITION BY {_LATEST[table]} ORDER BY attempt DESC NULLS LAST) = 1"
    )


def run_sql(
    results: str | Path | Folder, sql: str, sweeps: Sequence[str] | None = None
) -> pd.DataFrame:
    """The answer to a query over the views of `connect`.

    Args:
        results, sweeps: as for `connect`.
        sql: one statement that reads.

    Raises:
        UserError: the query is wrong, does anything but read, reaches for something that is not a
            result, or needs too much memory.
    """
    _check_reads(sql)
    with connect(results, sweeps, epochs=_may_read_epochs(sql)) as connection:
        try:
            answer = connection.sql(sql)
            assert answer is not None, sql
            return _fetched(answer)
        except duckdb.OutOfMemoryException as error:
            raise _too_large() from error
        except duckdb.Error as error:
            raise UserError(_line(error)) from error


def _check_reads(sql: str) -> None:
    """Refuses what is not exactly one reading statement."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UserError(_line(error)) from error
    if len(statements) != 1:
        found = f"{len(statements)} statements" if statements else "nothing"
        raise UserError(f"query: expected one statement that reads, such as SELECT; got {found}")
    kind, text = statements[0].type.name, sql[_COMMENT.match(sql).end() :]  # type: ignore[union-attr]
    if kind == "EXPLAIN":
        _check_reads(text[_EXPLAIN.match(text).end() :])  # type: ignore[union-attr]
    elif kind != "SELECT" and not (kind == "MULTI" and "pivot" in text.lower()):
        raise UserError(
            f"query: {kind} does not read; expected SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE, "
            "PIVOT or EXPLAIN"
        )


def _may_read_epochs(sql: str) -> bool:
    """False where the statement surely names trials alone: DuckDB itself says what it names.

    What is called by a name that is computed (``query_table('ep' || 'ochs')``) is not known.
    """
    if "query" in sql.lower():
        return True
    with duckdb.connect(":memory:") as parser:
        try:
            names = parser.get_table_names(sql)
        except duckdb.Error:
            return True  # the query itself will say what is wrong
    return not names or not {name.lower() for name in names} <= {"trials", "trials_all"}


def _fetched(answer: duckdb.DuckDBPyRelation) -> pd.DataFrame:
    """All rows, as long as they fit: what is fetched is outside of DuckDB's own limit."""
    # Under its name of DuckDB 2, or of 1.
    read = getattr(answer, "to_arrow_reader", None) or answer.fetch_arrow_reader
    reader = read(_BATCH_ROWS)
    batches, size, limit = [], 0, _memory()
    for batch in reader:
        size += batch.nbytes
        if size > limit:
            raise _too_large()
        batches.append(batch)
    frame: pd.DataFrame = pa.Table.from_batches(batches, reader.schema).to_pandas()
    return frame


def _too_large() -> UserError:
    return UserError(
        f"query: it needs more than {_memory() / 2**30:.1f} GiB of memory; ask for less at once: "
        "an aggregate, fewer columns, a LIMIT"
    )


def _line(error: Exception) -> str:
    message = " ".join(str(error).partition("\n\nLINE")[0].split())
    return f"query: {message if len(message) <= 280 else f'{message[:277]}...'}"


def trials(results: str | Path | Folder, sweeps: Sequence[str] | None = None) -> pd.DataFrame:
    """The last attempt of every trial, in the order in which they started.

    Raises:
        UserError: a sweep does not exist, or one of its files is damaged.
    """
    return run_sql(results, "FROM trials ORDER BY sweep, started_at, trial_id", sweeps)


def epochs(results: str | Path | Folder, sweeps: Sequence[str] | None = None) -> pd.DataFrame:
    """Every epoch of every trial, from the last attempt that reached it.

    Raises:
        UserError: a sweep does not exist, or one of its files is damaged.
    """
    return run_sql(results, "FROM epochs ORDER BY sweep, trial_id, epoch", sweeps)
