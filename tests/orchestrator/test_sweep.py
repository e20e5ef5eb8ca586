"""A whole sweep on Ray: run, repeat one trial, confirm. Starting Ray takes most of it."""

import io
import json
import re
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from here import said

STUDY = {
    "dataset": "digits",
    "teacher": {"model": "wrn_16_1", "epochs": 3},
    "teachers": {"wide": {"model": "wrn_10_1", "epochs": 1}},
    "fixed": {"student": "wrn", "compression": "factor", "epochs": 2, "val_fraction": 0.2},
    "dimensions": {
        "method": ["kd", "student", "at", "mkd"],
        "factor": [2, 2.001],
        "at.beta": [1e38],
    },
    "points": [
        {"method": "kd", "factor": 2},
        {"method": "kd", "factor": 2.001},  # the same network
        {"method": "student", "factor": 2},
        {"method": "at", "factor": 2, "at.beta": 1e38},  # diverges
        {"method": "mkd", "factor": 2},  # learns from both teachers
    ],
    "sampler": "points",
}


def shown(text: str, key: str) -> str:
    """The value behind a key in the printed row of a trial."""
    found = re.search(rf"^{key} +(\S+) *$", text, re.MULTILINE)
    assert found, text
    return found[1]


@pytest.mark.slow
def test_run_repeat_and_confirm(tmp_path, cluster):
    study = tmp_path / "s.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    results = ["--results", str(tmp_path / "results")]

    def rows(sql: str) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(said("query", sql, "--csv", *results)))

    text = said("run", str(study), *cluster, *results)
    assert "s-00001: same experiment as s-00000, not trained again" in text
    assert "3 trials completed, 1 failed" in text
    assert "\x1b" not in text
    found = rows("SELECT * FROM trials ORDER BY trial_id").set_index("trial_id")
    assert found["status"].to_dict() == {
        "s-00000": "completed",
        "s-00002": "completed",
        "s-00003": "failed",
        "s-00004": "completed",
    }
    assert found["teachers"].dropna().to_dict() == {"s-00004": '{"wide": "wrn_10_1"}'}
    assert found.loc["s-00003", "error"].startswith("Diverged: the loss became")
    assert 1.9 < found.loc["s-00000", "compression_params"] < 2.2
    epochs = rows("SELECT trial_id, epoch, val_acc FROM epochs ORDER BY ALL")
    assert epochs.query("trial_id == 's-00000'")["epoch"].tolist() == [1, 2]

    # The same trial without Ray, by its name and by its settings.
    again = {
        name: said("trial", "--replay", "s", name, *results) for name in ("s-00000", "s-00004")
    }
    same = said("trial", str(study), "method=kd", "factor=2", *results)
    for name, text in (*again.items(), ("s-00000", same)):
        assert shown(text, "config_key") == found.loc[name, "config_key"]
        for key in ("val_acc", "test_acc", "params", "macs"):
            assert float(shown(text, key)) == found.loc[name, key]

    # Two seeds of the front and its plain student.
    said("confirm", "s", "--seeds", "2", "--max-concurrent", "1", *cluster, *results)
    confirmed = rows("SELECT * FROM trials WHERE stage = 'confirm' AND status = 'completed'")
    seeds = confirmed.groupby("method")["seed"].agg(sorted).to_dict()
    assert seeds["student"] == [1000, 1001]
    assert all(seed == [1000, 1001] for seed in seeds.values())
    assert confirmed["trial_id"].is_unique
    assert confirmed["val_acc"].isna().all()
    assert all(json.loads(config)["val_fraction"] == 0 for config in confirmed["config"])
    assert "confirm" in said("table", "s", "--format", "csv", *results)


@pytest.mark.soak
def test_a_share_of_a_gpu_that_is_not_there_is_refused(tmp_path):
    """Also where Ray has to be asked; nothing is left of the sweep."""
    study = tmp_path / "s.yaml"
    study.write_text(yaml.safe_dump({"dataset": "digits", "fixed": {"student": "wrn_10_0.5"}}))
    results = ["--results", str(tmp_path / "results")]
    program = [sys.executable, "-m", "orchestrator.cli", "run", str(study)]
    done = subprocess.run(
        [*program, "--gpus-per-trial", "9", *results],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"kdsweep: --gpus-per-trial 9: the largest node has \d+ GPUs\n", done.stderr
    )
    assert not (tmp_path / "results" / "s").exists()


@pytest.mark.slow
def test_reused_and_fresh_workers_train_alike(tmp_path, cluster):
    study = tmp_path / "s.yaml"
    fixed = {"student": "wrn_10_0.5", "epochs": 1, "train_fraction": 0.2, "precision": "fp32"}
    space = {"lr": [0.02, 0.05]}
    content = {"dataset": "digits", "fixed": fixed, "dimensions": space, "sampler": "grid"}
    study.write_text(yaml.safe_dump(content | {"objectives": {"val_acc": "max"}}))

    def rows(name: str, *options: str) -> pd.DataFrame:
        results = ["--results", str(tmp_path / name)]
        said("run", str(study), "--max-concurrent", "1", *options, *cluster, *results)
        sql = "SELECT config_key, train_loss, val_acc, test_acc, latency_ms FROM trials ORDER BY 1"
        return pd.read_csv(io.StringIO(said("query", sql, "--csv", *results)))

    reused, fresh = rows("reused"), rows("fresh", "--fresh-workers")
    learned = ["config_key", "train_loss", "val_acc", "test_acc"]
    pd.testing.assert_frame_equal(reused[learned], fresh[learned], check_exact=True)
    # Measured once per process.
    assert reused["latency_ms"].nunique() == 1
    assert fresh["latency_ms"].nunique() == 2
