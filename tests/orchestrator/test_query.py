"""Queries see the last attempt, and nothing but the results."""

import shutil

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.query import connect, epochs, run_sql, trials
from orchestrator.results.store import Store
from trainables.errors import UserError


@pytest.fixture
def results(tmp_path):
    """Sweep ``a``: trial 0 died after epoch 2 and was continued; trial 1 ran once. Sweep ``b``."""
    folder = tmp_path / "results"
    store = Store(folder, "a")
    store.save_study("dataset: digits\n")
    rows = [(0, 1, 1, 0.1), (0, 1, 2, 0.2), (0, 1, 3, 0.3), (1, 1, 1, 0.15)]
    store.add_epochs(row(*values) for values in rows)
    store.add_trial(ended("a-1", 1, status="completed", method="kd", val_acc=0.15))
    store.add_trial(ended("a-0", 1, status="failed", method="kd", error="died"))
    store.add_epochs(row(*values) for values in [(0, 2, 3, 0.35), (0, 2, 4, 0.4)])
    store.add_trial(ended("a-0", 2, status="completed", method="kd", val_acc=0.4))
    Store(folder, "b").add_trial(ended("a-0", 1, status="stopped", method="at"))
    return folder


def ended(trial_id, attempt, **columns):
    return {"trial_id": trial_id, "attempt": attempt, **columns}


def row(trial, attempt, epoch, val_acc):
    return {"trial_id": f"a-{trial}", "attempt": attempt, "epoch": epoch, "val_acc": val_acc}


@pytest.mark.parametrize("compacted", [False, True])
def test_last_attempt_counts(results, compacted):
    if compacted:
        Store(results, "a").compact()
    frame = trials(results, ["a"]).set_index("trial_id")
    assert sorted(frame.index) == ["a-0", "a-1"]
    assert (frame.status["a-0"], frame.attempt["a-0"], frame.val_acc["a-0"]) == (
        "completed",
        2,
        0.4,
    )
    curve = epochs(results, ["a"]).query("trial_id == 'a-0'")
    assert curve.epoch.tolist() == [1, 2, 3, 4]
    assert curve.attempt.tolist() == [1, 1, 2, 2]
    assert curve.val_acc.tolist() == [0.1, 0.2, 0.35, 0.4]


def test_every_attempt_is_in_the_all_views(results):
    assert run_sql(results, "SELECT count(*) n FROM trials_all").n.item() == 4
    assert run_sql(results, "SELECT count(*) n FROM epochs_all", ["a"]).n.item() == 6


def test_sweeps_are_told_apart(results):
    assert len(trials(results)) == 3
    assert trials(results, ["b"]).status.tolist() == ["stopped"]
    assert len(trials(results, ["b", "b"])) == 1
    assert epochs(results, ["b"]).empty


def test_sql_joins_trials_and_epochs(results):
    sql = """SELECT t.method, max(e.val_acc) AS best FROM "EPOCHS" e
             JOIN trials t USING (sweep, trial_id) GROUP BY t.method"""
    assert run_sql(results, sql).to_dict("list") == {"method": ["kd"], "best": [0.4]}


def test_tables_can_be_listed_and_times_are_utc(results):
    assert run_sql(results, "SHOW TABLES").name.tolist() == [
        *("epochs", "epochs_all", "trials", "trials_all")
    ]
    assert str(run_sql(results, "SELECT started_at FROM trials").started_at.dt.tz) == "UTC"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('https://localhost/x.parquet')",
        "COPY trials TO '{folder}/out.csv'",
        "COPY trials TO '{folder}/out.parquet' (FORMAT parquet)",
        "EXPORT DATABASE '{folder}/out'",
        "ATTACH '{folder}/out.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "SELECT 1; COPY trials TO '{folder}/out.csv'",
        "SELECT 1; SELECT 2",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO trials_all SELECT * FROM trials",
        "WITH x AS (SELECT 1) DELETE FROM trials_all",
        "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
        "EXPLAIN (FORMAT json) COPY trials TO '{folder}/out.csv'",
        "/* SELECT */ -- SELECT\n DROP VIEW trials",
        "CALL pragma_version()",
        "PREPARE x AS SELECT 1",
        "USE main",
        "CHECKPOINT",
        "BEGIN",
        "VACUUM",
    ],
)
def test_query_can_read_only_the_results(results, tmp_path, sql):
    with pytest.raises(UserError, match=r"^query: ") as caught:
        run_sql(results, sql.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1;",
        "-- mine; really\nSELECT ';' ; -- and so on",
        "FROM trials",
        "WITH t AS (FROM trials) SELECT count(*) FROM t",
        "VALUES (1)",
        "TABLE trials",
        "DESCRIBE trials",
        "SHOW ALL TABLES",
        "SUMMARIZE trials",
        "PIVOT trials ON method USING max(val_acc)",
        "/* why */ EXPLAIN SELECT 1",
        "EXPLAIN (FORMAT json) SELECT 1",
        "explain analyze from trials",
        "SELECT * FROM query('SELECT 1')",
    ],
)
def test_whatever_reads_is_answered(results, sql):
    assert len(run_sql(results, sql)) > 0


@pytest.mark.parametrize(
    "source",
    [
        "EPOCHS",
        '"Epochs"',
        "main.epochs",
        'memory.main."EPOCHS"',
        "Epochs_All",
        "(FROM epochs)",
        "query_table('ep' || 'ochs')",
        "query('FROM ep' || 'ochs')",
        "trials t, query_table('ep' || 'ochs')",
        "(WITH trials AS (FROM epochs) FROM trials)",
        "trials_all t, LATERAL (FROM epochs e WHERE e.trial_id = t.trial_id) /* epochs */",
    ],
)
def test_tables_are_there_however_they_are_named(results, source):
    assert run_sql(results, f"SELECT count(*) AS n FROM {source}", ["a"]).n.item() >= 5


def test_a_query_has_a_limit_of_memory_and_leaves_no_files(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.results.views.MEMORY", 64 * 2**20)
    for sql in (
        "SELECT list(a.range) FROM range(100000) a, range(1000) b",
        "SELECT a.range, b.range FROM range(10000) a, range(10000) b ORDER BY 2, 1",
        "FROM range(1_000_000_000_000)",  # which DuckDB would hand out for ever
    ):
        with pytest.raises(UserError, match=r"query: it needs more than 0\.1 GiB of memory"):
            run_sql(results, sql)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    # Nothing is spilled meanwhile either.
    assert run_sql(results, "SELECT current_setting('temp_directory') AS t").t.item() == ""


def test_long_errors_are_cut(results):
    with pytest.raises(UserError) as caught:
        run_sql(results, f"SELECT {'x' * 2000} FROM trials")
    assert len(str(caught.value)) < 300


def test_foreign_folders_are_passed_over_with_a_note(results, caplog):
    shutil.copytree(results / "a", results / "a copy")
    shutil.copytree(results / "a", results / ".ipynb_checkpoints")
    (results / "file").write_text("")
    (results / "teachers").mkdir()
    (results / "flowers" / "trials").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), results / "flowers" / "trials" / "x.parquet")
    assert sorted(set(trials(results).sweep)) == ["a", "b"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "a copy is passed over: that is no name of a sweep" in told[0]
    assert "flowers is passed over: it is no sweep" in told[1]
    with pytest.raises(UserError, match=r"x\.parquet was not written by kdsweep"):
        trials(results, ["flowers"])
    with pytest.raises(UserError, match="sweep name 'a copy'"):
        trials(results, ["a copy"])


def test_a_strange_file_in_a_sweep_is_refused(results):
    """An answer without that sweep would be wrong and look right."""
    pq.write_table(pa.table({"x": [1]}), results / "a" / "epochs" / "x.parquet")
    assert len(trials(results)) == 3
    with pytest.raises(UserError, match=r"x\.parquet was not written by kdsweep"):
        epochs(results)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_renamed_or_copied_sweep_has_the_name_of_its_folder(results, compacted):
    shutil.copytree(results / "a", results / "copy")
    (results / "a").rename(results / "c")
    Store(results, "c").add_trial(ended("a-0", 3, status="failed", error="again"))
    if compacted:
        Store(results, "c").compact()
    frame = trials(results)
    assert frame.groupby("sweep")["trial_id"].agg(list).to_dict() == {
        "b": ["a-0"],
        "c": ["a-0", "a-1"],
        "copy": ["a-0", "a-1"],
    }
    assert frame.set_index(["sweep", "trial_id"]).attempt["c", "a-0"] == 3
    assert set(epochs(results).sweep) == {"c", "copy"}


def test_query_cannot_read_python_variables(results):
    secret = trials(results)
    with connect(results) as connection, pytest.raises(duckdb.Error, match="secret does not exist"):
        connection.sql("SELECT * FROM secret").fetchall()
    assert len(secret) == 3


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nosuch FROM trials", "nosuch"),
        ("SELEC 1", "syntax error"),
        ("SELECT 'a'::INT", "Could not convert"),
        ("", "expected one statement that reads, such as SELECT; got nothing"),
    ],
)
def test_wrong_sql_is_one_line(results, sql, message):
    with pytest.raises(UserError, match=message) as caught:
        run_sql(results, sql)
    assert "\n" not in str(caught.value)


def test_missing_sweeps_are_named(results, tmp_path):
    with pytest.raises(UserError, match="unknown sweep 'c'; known: a, b"):
        trials(results, ["a", "c"])
    with pytest.raises(UserError, match=r"no sweeps in .*; name the right folder with --results"):
        trials(tmp_path / "nothing")


def test_connection_is_a_snapshot(results):
    with connect(results) as connection:
        Store(results, "b").add_trial(ended("late", 1))
        assert connection.sql("SELECT count(*) FROM trials").fetchall() == [(3,)]
    assert len(trials(results)) == 4
