"""A sweep on Ray that trains several teachers first, one of them after its own."""

import io
from pathlib import Path

import pandas as pd
import pytest
import yaml
from here import said as printed

STUDY = {
    "dataset": "digits",
    "teacher": {"epochs": 2},
    "pairs": {
        "wrn_16_1->wrn_10_0.5": {"kd.alpha": 0.5},
        "resnet14->resnet8": None,
        "ta": {
            "teacher": {"model": "resnet8", "method": "kd", "teacher": "resnet14"},
            "student": "wrn_10_0.5",
        },
    },
    "fixed": {"epochs": 1, "val_fraction": 0.2},
    "dimensions": {"method": ["kd"]},
    "sampler": "grid",
}
NAMES = ["wrn_16_1", "resnet14", "resnet8(kd:resnet14)"]


@pytest.mark.slow
def test_trials_start_when_all_teachers_are_there(tmp_path: Path, cluster: list[str]) -> None:
    study = tmp_path / "s.yaml"
    study.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    results = ["--results", str(tmp_path / "results")]
    said = printed("run", str(study), "--max-concurrent", "1", *cluster, *results).splitlines()
    begun = [said.index(f"training the teacher {name}") for name in NAMES]
    ended = max(n for n, line in enumerate(said) if line.startswith("teacher ") and "test" in line)
    trained = [n for n, line in enumerate(said) if "/3 trials" in line]
    assert max(begun) < ended < min(trained)
    assert begun[2] > begun[1], "the assistant waits for its teacher"
    between = "\n".join(said[min(begun[:2]) : max(begun[:2])])
    assert "epoch" not in between, "the first two share the machine"

    def rows() -> pd.DataFrame:
        sql = "SELECT * FROM trials ORDER BY trial_id"
        return pd.read_csv(io.StringIO(printed("query", sql, "--csv", *results)))

    found = rows()
    assert found["status"].tolist() == ["completed"] * 3
    assert found["teacher"].tolist() == NAMES
    assert found["student"].tolist() == ["wrn_10_0.5", "resnet8", "wrn_10_0.5"]
    assert found["compression_params"].is_unique
    notes = yaml.safe_load((tmp_path / "results" / "s" / "study.yaml").read_text())["kdsweep"]
    files = sorted(path.stem for path in (tmp_path / "results" / "teachers").glob("*.safetensors"))
    assert sorted(notes["teacher_files"].values()) == files
    assert sorted(notes["teacher_files"]) == sorted(NAMES)

    # A trial again, of the last pair; then one of another sweep, which finds all teachers.
    replayed = printed("trial", "--replay", "s", "s-00002", *results)
    last = found.loc[2]
    assert str(last["config_key"]) in replayed
    assert f"val_acc of s-00002: {last['val_acc']}, now {last['val_acc']}" in replayed
    again = printed("trial", str(study), "pair=ta", "method=kd", *results)
    assert "training the teacher" not in again
    assert str(last["config_key"]) in again
