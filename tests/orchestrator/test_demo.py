"""The demonstration tells methods apart: its claims, on the sweep that `make demo` runs."""

import pandas as pd
import pytest

from orchestrator.cli import main
from orchestrator.query import trials
from orchestrator.results.tables import Cell, compression_table


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    results = str(tmp_path_factory.mktemp("demo"))
    assert main(["run", "digits", "--results", results]) == 0
    return trials(results, ["digits"])


def cells(finished: pd.DataFrame) -> tuple[Cell, ...]:
    (panel,) = compression_table(finished).panels
    return panel.cells


@pytest.mark.soak
def test_every_cell_has_a_mean_and_a_spread(finished: pd.DataFrame) -> None:
    found = cells(finished)
    assert len({cell.method for cell in found}) * len({c.compression for c in found}) == len(found)
    assert all(cell.n >= 4 and cell.sd is not None for cell in found)


@pytest.mark.soak
def test_the_teacher_is_above_the_plain_students(finished: pd.DataFrame) -> None:
    (teacher,) = finished["teacher_test_acc"].unique()
    plain = finished[finished["method"] == "student"]["test_acc"]
    assert len(plain) >= 12
    assert teacher > plain.max()


@pytest.mark.soak
def test_a_method_beats_plain_training_by_more_than_chance(finished: pd.DataFrame) -> None:
    better = {
        cell.compression
        for cell in cells(finished)
        if cell.diff is not None and cell.diff_se is not None and cell.diff > 2 * cell.diff_se
    }
    assert len(better) >= 2
