"""Several teachers from a study's file to rows, tables and a repeated trial."""

import json

import pytest
import yaml
from here import said

from orchestrator.query import trials

pytestmark = pytest.mark.soak

STUDY = {
    "name": "several",
    "dataset": "digits",
    "teacher": {"model": "resnet8", "epochs": 2},
    "teachers": {"wide": {"model": "wrn_10_1", "epochs": 2}, "deep": "wrn_16_0.5"},
    "fixed": {"student": "wrn_10_0.5", "epochs": 4, "lr": 0.1, "val_fraction": 0.2},
    "dimensions": {
        "method": ["student", "kd", "mkd", "at"],
        "at.teacher": ["teacher", "wide"],
    },
    "sampler": "grid",
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The study's file and the results of a sweep."""
    folder = tmp_path_factory.mktemp("several")
    study, results = folder / "several.yaml", folder / "results"
    study.write_text(yaml.safe_dump(STUDY))
    text = said("run", str(study), "--results", str(results))
    assert "5 trials completed" in text
    assert "nothing left to do" in said("resume", "several", "--results", str(results))
    for teacher in ("resnet8", "wrn_10_1", "wrn_16_0.5"):
        assert f"teacher {teacher}: test " in text
    return str(study), str(results)


def test_each_row_says_whose_student_it_is(swept: tuple[str, str]) -> None:
    frame = trials(swept[1])
    assert frame["teacher"].tolist() == ["resnet8"] * 5
    assert frame["config_key"].nunique() == 5
    found = {}
    for row in frame.itertuples():
        config = json.loads(row.config)
        others = json.loads(row.teachers) if isinstance(row.teachers, str) else {}
        assert {k: v for k, v in config.items() if k.startswith("teachers.")} == {
            f"teachers.{role}": name for role, name in others.items()
        }
        found[row.method, config.get("at.teacher")] = others
    assert found == {
        ("student", None): {},
        ("kd", None): {},
        ("mkd", None): {"deep": "wrn_16_0.5", "wide": "wrn_10_1"},
        ("at", None): {},
        ("at", "wide"): {"wide": "wrn_10_1"},
    }


def test_a_table_chooses_between_teachers_on_validation(swept: tuple[str, str]) -> None:
    """Two trials of at are two configs, not two seeds of one."""
    text = said("table", "several", "--format", "csv", "--results", swept[1])
    frame = trials(swept[1])
    at = frame[frame["method"] == "at"].sort_values("val_acc")
    (line,) = [line for line in text.splitlines() if ",at," in line]
    assert at["test_acc"].nunique() == 2, "the test is about trials that differ"
    assert f"{at['test_acc'].iloc[-1]:.6g}"[:6] in line


def test_a_trial_of_several_teachers_again(swept: tuple[str, str]) -> None:
    frame = trials(swept[1]).set_index("method")
    row = frame.loc["mkd"]
    text = said("trial", "--replay", "several", row["trial_id"], "--results", swept[1])
    shown = dict(line.split(None, 1) for line in text.splitlines() if len(line.split()) == 2)
    assert shown["config_key"].strip() == row["config_key"]
    for score in ("val_acc", "test_acc"):
        assert float(shown[score]) == row[score], score
