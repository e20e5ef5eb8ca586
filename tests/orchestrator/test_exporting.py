"""`kdsweep export` and `kdsweep inspect` on a student that was trained."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from matplotlib.image import imread

from orchestrator.cli import main
from orchestrator.results.record import write_record
from orchestrator.results.store import Store
from search_spaces.load import load_study
from trainables.config import TrialConfig
from trainables.data.sources import load_dataset
from trainables.job import STUDENT, Job, Run
from trainables.models.weights import read_card, save_network
from trainables.students import read_student


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sweep with a finished trial, one under way, and one of a data set that is not here."""
    folder = str(tmp_path_factory.mktemp("results"))
    notes = {"data_dir": None, "data_fingerprint": load_dataset("digits").fingerprint}
    write_record(Store(folder, "s"), load_study("digits"), notes)
    for number in range(2):
        values = {"dataset": "digits", "student": "wrn_10_0.5", "epochs": 1 + number}
        config = TrialConfig.from_mapping(values | {"precision": "fp32", "train_fraction": 0.2})
        facts = {"sweep": "s", "trial_id": f"s-{number}", "results": folder}
        run = Run(Job(config=config.to_dict(), checkpoint_seconds=0, **facts), torch.device("cpu"))
        run.run_epoch()
        if run.finished:
            run.row("completed")
    card, network = read_student(folder, "s", "s-0")
    away = Store(folder, "s").folder / "checkpoints" / "s-2"
    save_network(away, STUDENT, network, replace(card, dataset="cifar10"))
    return folder


def test_export_says_what_it_wrote(results, tmp_path, capsys):
    for words in ("--onnx", "--pt2"):
        file = tmp_path / f"student.{words.strip('-')}"
        assert main(["export", "s", "s-0", words, str(file), "--results", results]) == 0
        said = capsys.readouterr()
        tested = read_card(Store(results, "s").folder / "checkpoints" / "s-0", STUDENT).tested
        assert f"{tested}; s-0: {tested}" in said.out
        assert f"{file.stat().st_size:,}" in said.out
        assert "float32 [batch, 1, 8, 8]: (pixels / 255 - mean) / std by channel" in said.out
        assert "scoring the file on the 359 test images of digits" in said.err
    facts = {
        entry.key: entry.value for entry in onnx.load(tmp_path / "student.onnx").metadata_props
    }
    assert (facts["sweep"], facts["trial"]) == ("s", "s-0")


def test_a_teacher_is_exported_too(results, tmp_path, capsys):
    assert main(["teacher", "adopt", "s", "s-0", "--name", "t", "--results", results]) == 0
    file = tmp_path / "t.pt2"
    assert main(["export", "--teacher", "t", "--pt2", str(file), "--results", results]) == 0
    extra = {"provenance.json": ""}
    torch.export.load(file, extra_files=extra)
    facts = json.loads(extra["provenance.json"])
    assert (facts["teacher"], facts["sweep"]) == ("t", "")


def test_what_was_not_checked_is_said(results, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    words = ["export", "s", "s-2", "--pt2", str(tmp_path / "s.pt2"), "--results", results]
    assert main(words) == 0
    assert "not checked on the test set: --data DIR" in capsys.readouterr().out
    (tmp_path / "s.pt2").unlink()
    (tmp_path / "empty").mkdir()
    assert main([*words, "--data", str(tmp_path / "empty")]) == 2
    assert "cifar10" in capsys.readouterr().err
    assert not (tmp_path / "s.pt2").exists()


@pytest.mark.parametrize("verb", ["export s s-1 --onnx a.onnx", "inspect s s-1"])
def test_a_trial_under_way_has_no_student(results, tmp_path, capsys, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    assert main([*verb.split(), "--results", results]) == 2
    said = capsys.readouterr()
    assert said.err == "kdsweep: trial 's-1' has no student: it has not completed\n"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(results, capsys):
    for words in ("export s s-0 --onnx /proc/a.onnx", "inspect s s-0 -o /proc/pictures"):
        assert main([*words.split(), "--results", results]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "/proc/" in said
        assert "cannot be written" in said


def test_inspect_shows_layers_as_text_and_csv(results, capsys):
    assert main(["inspect", "s", "s-0", "--results", results]) == 0
    lines = capsys.readouterr().out.splitlines()
    conv = next(line.split() for line in lines if line.startswith("group1.0.conv1 "))
    assert conv[1:6] == ["Conv2d", "3x3", "8x8x8", "576", "576"]
    assert any(line.startswith("all ") and line.rstrip().endswith("100.0 %") for line in lines)
    assert main(["inspect", "s", "s-0", "--csv", "--results", results]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    card, _ = read_student(results, "s", "s-0")
    assert sum(int(row["params"] or 0) for row in rows) == card.params
    assert sum(int(row["macs"] or 0) for row in rows) == card.macs
    assert sum(float(row["latency_share"]) for row in rows) == pytest.approx(1, abs=1e-3)
    assert [row["name"] for row in rows][0 :: len(rows) - 1] == ["conv1", "(between layers)"]


def test_inspect_draws(results, tmp_path, capsys):
    folder = tmp_path / "pictures"
    assert main(["inspect", "s", "s-0", "-o", str(folder), "--results", results]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        *("features.png", "graph.svg", "kernels.png")
    ]
    for name in ("features.png", "kernels.png"):
        picture = imread(folder / name)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.1
    text = (folder / "graph.svg").read_text()
    for word in ("s-0 (wrn_10_0.5)", "conv 3x3, BN, ReLU", "group3.0.shortcut", "classifier"):
        assert word in text
    before = text
    assert main(["inspect", "s", "s-0", "-o", str(folder), "--results", results]) == 0
    assert (folder / "graph.svg").read_text() == before


def test_inspect_draws_what_it_can_without_data(results, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    folder = tmp_path / "pictures"
    words = ["inspect", "s", "s-2", "-o", str(folder), "--results", results]
    assert main(words) == 0
    assert "features.png: --data DIR" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["graph.svg", "kernels.png"]
    assert main([*words, "--data", str(tmp_path)]) == 2


def test_kernels_of_many_inputs_and_of_three(tmp_path: Path) -> None:
    from orchestrator.results.network_pictures import draw_kernels

    for inputs in (1, 3, 5, 40):
        weight = torch.randn(70, inputs, 3, 3)
        draw_kernels("conv1", weight, tmp_path / f"{inputs}.png", "network")
        assert imread(tmp_path / f"{inputs}.png")[..., :3].std() > 0.1
