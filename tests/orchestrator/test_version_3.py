"""What version 3 of the tables has written, kept in ``sweep_of_version_3``, is read as ever."""

import shutil
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.query import epochs, trials
from orchestrator.sweeps.confirm import choose

KEPT = Path(__file__).parent / "sweep_of_version_3"


@pytest.fixture
def results(tmp_path: Path) -> str:
    shutil.copytree(KEPT, tmp_path / "results")
    return str(tmp_path / "results")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*arguments]) == code
    out, err = capsys.readouterr()
    return str(err if code else out)


def test_it_is_shown(results: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--results", results]
    frame = trials(results, ["s"])
    assert sorted(frame["trial_id"]) == ["s-00000", "s-00001", "s-00002"]
    assert set(frame["schema_version"]) == {3}
    curve = epochs(results, ["s"])
    assert len(curve) == 6
    assert curve["val_score"].tolist() == curve["val_acc"].tolist()
    assert set(frame["metric"]) == {"acc"}
    for name in ("val", "test", "teacher_test"):
        assert frame[f"{name}_score"].tolist() == frame[f"{name}_acc"].tolist()
    table = said(capsys, "table", "s", "--format", "csv", *where)
    for row in frame.loc[frame["method"] == "student"].itertuples():
        assert repr(row.test_acc) in table
    assert "wrn_10_0.5" in said(capsys, "front", "s", *where)
    picture = tmp_path / "s.png"
    said(capsys, "plot", "s", "-o", str(picture), *where)
    assert picture.stat().st_size > 1000
    assert "3" in said(capsys, "query", "SELECT count(*) FROM trials", "--csv", *where)


def test_it_is_confirmed_and_finished(results: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert {config.stage for group in choose("s", results, 2, None) for config in group} == {
        "confirm"
    }
    assert "nothing left to do" in said(capsys, "resume", "s", "--results", results)


def test_where_it_was_interrupted_it_is_left_to_its_version(
    results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in Path(results, "s", "trials").iterdir():
        part.unlink()
    err = said(capsys, "resume", "s", "--results", results, code=2)
    assert err.count("\n") == 1
    assert "was begun by an older version" in err


def test_a_trial_of_it_again(results: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another kind of CPU rounds otherwise: its accuracy may differ, its settings may not."""
    text = said(capsys, "trial", "--replay", "s", "s-00000", "--results", results)
    row = trials(results, ["s"]).set_index("trial_id").loc["s-00000"]
    assert f"was made by kdsweep {row['code_version']}" in text
    assert str(row["config_key"]) in text
