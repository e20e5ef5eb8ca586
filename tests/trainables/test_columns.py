"""What a row may hold: one record per table, read by everything that shows or chooses."""

import dataclasses
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from trainables.columns import COLUMNS, TRIALS, EpochRow, TrialRow
from trainables.errors import UserError
from trainables.objectives import OBJECTIVES, check_objective, value_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("table", COLUMNS)
def test_every_column_is_explained(table: str) -> None:
    for name, column in COLUMNS[table].items():
        assert column.name == name
        assert column.kind in (str, int, float, datetime)
        assert 3 < len(column.help) < 80, name
        assert not column.help.endswith("."), name
        if column.better or column.role == "measured":
            assert column.kind in (int, float), name


@pytest.mark.parametrize("row", [TrialRow, EpochRow])
def test_a_row_has_no_other_columns(row: type) -> None:
    with pytest.raises(TypeError, match="stray"):
        row(stray=1)
    with pytest.raises(TypeError, match="stray"):
        dataclasses.replace(row(), stray=1)
    with pytest.raises(AttributeError, match="stray"):
        row().stray = 1


def test_a_row_has_what_is_known() -> None:
    row = TrialRow(trial_id="s-0", status="stopped", epochs=0)
    row.val_acc = 0.5
    assert row.known() == {"trial_id": "s-0", "status": "stopped", "epochs": 0, "val_acc": 0.5}
    assert TrialRow().known() == {}


WRONG = """
from dataclasses import replace
from trainables.columns import TrialRow
row = TrialRow(val_acc=0.5)
row.stray = 1
row.val_acc = "high"
TrialRow(stray=1)
replace(row, stray=1)
"""


def test_the_type_checker_finds_a_stray_column(tmp_path: Path) -> None:
    """Also where only a trial that completes would come by."""
    pytest.importorskip("mypy")
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, "--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "wrong.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
    )
    lines = [line.split(":")[1] for line in done.stdout.splitlines() if ": error: " in line]
    assert lines == ["5", "6", "7", "8"], done.stdout + done.stderr


def test_what_can_be_optimised_is_frozen() -> None:
    assert sorted(OBJECTIVES) == [
        *("activation_bytes", "bit_operations", "compression_bytes", "compression_macs"),
        *(
            "compression_params",
            "images_per_second",
            "latency_ms",
            "macs",
            "nonzero_params",
            "params",
            "peak_memory_bytes",
            "peer_val_acc",
            "size_bytes",
        ),
        *("teacher_cache_hit_rate", "train_loss", "train_seconds", "val_acc", "val_agreement"),
        *("val_empty_maps", "val_localisation", "val_loss", "val_map", "val_miou"),
        *("val_pointing", "val_preservation", "val_score"),
    ]
    for name in OBJECTIVES:
        assert check_objective(name) is TRIALS.get(name) or name == "val_map"


def test_a_headline_metric_has_its_own_name() -> None:
    column = check_objective("val_map")
    assert (column.name, column.better, column.needs) == ("val_map", "max", ("validation",))
    row = {"metric": "map", "val_score": 0.5}
    assert (value_of(row, "val_map"), value_of(row, "val_score")) == (0.5, 0.5)
    assert value_of(row | {"metric": "acc"}, "val_map") is None
    assert value_of(row, "val_acc") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val_accuracy", "unknown objective 'val_accuracy'; did you mean val_acc"),
        ("host", "unknown objective 'host'; known: activation_bytes"),
        ("seed", "unknown objective 'seed'"),
        ("started_at", "unknown objective 'started_at'"),
        ("compression_requested", "did you mean compression_"),
        ("test_map", "nothing is ever selected on the test set"),
        ("test_score", "nothing is ever selected on the test set"),
        ("val_f1", "unknown objective 'val_f1'"),
        ("test_acc", "objective 'test_acc': selection is on validation columns only"),
        ("teacher_test_acc", "nothing is ever selected on the test set"),
        ("peer_test_acc", "nothing is ever selected on the test set"),
    ],
)
def test_an_impossible_objective_is_named(name: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_objective(name)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300
