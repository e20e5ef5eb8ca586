"""Reading results: DataFrames, and SQL on a DuckDB connection that can read nothing else."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa

from orchestrator.store import SCHEMAS, Store, TableName
from trainables.errors import UserError
from trainables.files import Folder, open_folder

# What a trial's row is superseded by: the same trial, or the same epoch of it, tried again.
_LATEST = {"trials": "sweep, trial_id", "epochs": "sweep, trial_id, epoch"}

# No external access closes files, the network, extensions and Python's variables alike.
_SETTINGS = {"TimeZone": "'UTC'", "enable_external_access": "false", "lock_configuration": "true"}


def connect(
    results: str | Path | Folder, sweeps: Sequence[str] | None = None, *, epochs: bool = True
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection to a snapshot of the results, locked against everything else.

    Views ``trials`` and ``epochs`` hold the last attempt; ``trials_all`` and ``epochs_all`` every
    attempt. Files, the network, extensions, Python variables and settings are out of reach.

    Args:
        results: the results folder or URI.
        sweeps: names of the sweeps to read; None reads all.
        epochs: False leaves the epochs empty, which is quicker.

    Raises:
        UserError: a sweep does not exist, or one of its files is damaged.
    """
    folder = open_folder(results)
    names = list(dict.fromkeys(Store.sweeps(folder) if sweeps is None else sweeps))
    if not names:
        raise UserError(f"no sweeps in {folder}; name the right folder with --results")
    connection = duckdb.connect(":memory:")
    _load(connection, "trials", [Store(folder, name).read("trials") for name in names])
    stores = [Store(folder, name) for name in names] if epochs else []
    _load(connection, "epochs", [store.read("epochs") for store in stores])
    for setting, value in _SETTINGS.items():
        connection.execute(f"SET {setting} = {value}")
    return connection


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

    Raises:
        UserError: the query is wrong, or reaches for something that is not a result.
    """
    with connect(results, sweeps, epochs="epochs" in sql.lower()) as connection:
        try:
            answer = connection.sql(sql)
            if answer is None:
                raise UserError("query: the statement returns no rows; expected a SELECT")
            frame: pd.DataFrame = answer.to_arrow_table().to_pandas()
        except duckdb.Error as error:
            message = " ".join(str(error).partition("\n\nLINE")[0].split())
            raise UserError(f"query: {message}") from error
    return frame


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
