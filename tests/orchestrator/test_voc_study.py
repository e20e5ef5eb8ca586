"""PASCAL VOC from its files to tables and fronts: many labels, masks, and both scores of maps."""

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from here import said, shown

from orchestrator.query import epochs, trials

STUDY = {
    "name": "voc",
    "dataset": "voc2012",
    "teacher": {"model": "vgg11_x0.5", "epochs": 1},
    "fixed": {
        "student": "vgg11_x0.0625",
        "method": "kd+swa",
        "image_size": 64,
        "epochs": 2,
        "batch_size": 16,
        "val_fraction": 0.3,
        "explainers": "grad_cam+gradients",
        "explained_images": 8,
        "precision": "fp32",
    },
    "dimensions": {"swa.weight": [100.0]},
    "sampler": "grid",
    "objectives": {
        "val_map": "max",
        "val_localisation": "max",
        "val_preservation": "max",
        "nonzero_params": "min",
    },
}
SCORES = ("score", "localisation", "pointing", "miou", "preservation", "agreement")


@pytest.fixture(scope="module")
def swept(shared_data: Path, cluster: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The results folder of a sweep by Ray: a teacher, and a student of an eighth of its width."""
    data = shared_data / "voc2012_mini"
    if not data.is_dir():
        pytest.skip(f"needs VOC images in {data}")
    folder = tmp_path_factory.mktemp("voc")
    (folder / "voc.yaml").write_text(yaml.safe_dump(STUDY))
    words = ["run", str(folder / "voc.yaml"), "--data", str(data), *cluster]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KDSWEEP_DATA", raising=False)
        printed, warned = shown(*words, "--results", str(folder / "results"))
    assert warned.startswith("voc2012: warning: 1 of 20 classes has no validation image")
    assert "1 trials completed" in printed
    lines = printed.splitlines()
    first = next(place for place, line in enumerate(lines) if "training the teacher" in line)
    notes = "\n".join(lines[:first])
    assert "labels are those of the masks" in notes, "said before anything is trained"
    assert re.search(r"teacher vgg11_x0.5: test \d+\.\d\d % mAP", printed)
    return str(folder / "results")


@pytest.mark.slow
def test_rows_have_the_metric_and_both_scores(swept: str) -> None:
    (row,) = trials(swept).to_dict("records")
    assert (row["metric"], row["method"], row["status"]) == ("map", "kd+swa", "completed")
    assert pd.isna([row["val_acc"], row["test_acc"]]).all()
    found = {f"{part}_{name}": row[f"{part}_{name}"] for part in ("val", "test") for name in SCORES}
    assert all(0 <= value <= 1 for value in found.values()), found
    assert row["compression_params"] > 30
    curve = epochs(swept)
    assert curve["val_score"].tolist()[-1] == row["val_score"]
    for part in ("val", "test"):
        said_of = json.loads(row["attributions"])[part]
        assert said_of["masks"]
        assert list(said_of["explainers"]) == ["grad_cam", "gradients"]
        means = [one["localisation"]["auc"] for one in said_of["explainers"].values()]
        assert row[f"{part}_localisation"] == pytest.approx(sum(means) / 2)
        for one in said_of["explainers"].values():
            assert one["localisation"]["pairs"] > 0
            assert one["preservation"]["pairs"] > 0
    by_class = json.loads(row["metrics"])["test_by_class"]
    known = [value for value in by_class.values() if value is not None]
    assert len(by_class) == 20
    assert sum(known) / len(known) == pytest.approx(row["test_score"])


@pytest.mark.slow
def test_tables_and_fronts_show_its_own_metric(swept: str) -> None:
    results = ["--results", swept]
    table = said("table", "voc", *results)
    (row,) = trials(swept).to_dict("records")
    assert "Test mAP in %" in table
    assert f"{100 * row['test_score']:.2f}" in table
    assert "accuracy" not in table
    assert "localisation AUC" in said("table", "voc", "--metric", "test_localisation", *results)
    (shown,) = pd.read_csv(io.StringIO(said("front", "voc", "--csv", *results))).to_dict("records")
    names = {"val_map": "val_score", "test_map": "test_score"}
    for name in (*STUDY["objectives"], "test_map"):
        assert shown[name] == pytest.approx(row[names.get(name, name)]), name
    query = "select val_score, val_localisation, val_preservation from trials where metric = 'map'"
    (asked,) = pd.read_csv(io.StringIO(said("query", query, "--csv", *results))).to_dict("records")
    assert asked == pytest.approx({name: row[name] for name in asked})
