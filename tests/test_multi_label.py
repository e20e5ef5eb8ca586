"""A multi-label data set of another package: trained, selected and shown by its own metric."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from foreign import install, known_to_workers, present

from orchestrator.cli import main
from orchestrator.query import epochs, trials
from orchestrator.results.front import front
from orchestrator.results.store import Store
from orchestrator.sweeps.checks import scored_by
from search_spaces.load import parse_study
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.job import Job, Run
from trainables.tasks.metrics import ACC, MAP

LIGHTS = '''
"""Lights: red, green and blue ones, of which an image has none to three."""

import torch

from trainables.data.dataset import Content, Images
from trainables.data.sources import Source


def lights(asked):
    draw = torch.Generator().manual_seed(0)
    labels = (torch.rand(60, 3, generator=draw) < 0.5).to(torch.uint8)
    images = torch.randint(0, 100, (60, 3, 8, 8), generator=draw, dtype=torch.uint8)
    images[:, :, 2:6, 2:6] += 150 * labels[:, :, None, None]
    labels[0, 0] = 255  # hard to see
    train, test = Images(images[:40], labels[:40]), Images(images[40:], labels[40:])
    content = Content.measure(("red", "green", "blue"), train, test, task="multi-label")
    return content.dataset(asked.name, crop_padding=1, flip=True)


LIGHTS = Source("lights", "red, green and blue lights", "nothing", lights)
'''

STUDY = {
    "name": "lights",
    "dataset": "lights",
    "teacher": {"model": "wrn_10_1", "epochs": 6},
    "fixed": {"student": "wrn_10_0.5", "epochs": 2, "lr": 0.1, "batch_size": 8}
    | {"val_fraction": 0.3, "precision": "fp32"},
    "dimensions": {"method": ["student", "kd"]},
    "sampler": "grid",
}


METHODS = ["student", "kd", "kd+mixup", "at", "fitnet", "dml"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package was installed."""
    points = "[kdsweep.datasets]\nlights = lights:LIGHTS\n"
    return install(tmp_path_factory.mktemp("site"), "lights", LIGHTS, points)


@pytest.fixture(scope="module")
def installed(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In this process, which stands in a folder with the study."""
    folder = tmp_path_factory.mktemp("lights")
    (folder / "lights.yaml").write_text(yaml.safe_dump(STUDY))
    with present(site, "lights"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def teacher(installed: Path) -> str:
    """The name of its file in ``results``."""
    assert main(["teacher", "train", "lights.yaml"]) == 0
    (file,) = Path("results/teachers").glob("*.safetensors")
    return file.stem


@pytest.fixture(scope="module")
def results(teacher: str) -> str:
    """Trials of several methods, without Ray."""
    study = parse_study(STUDY | {"dimensions": {"method": METHODS}})
    store = Store("results", "s")
    for number, method in enumerate(METHODS):
        config = study.config({"method": method})
        job = Job(
            config=config.to_dict(),
            sweep="s",
            trial_id=f"s-{number:05d}",
            results="results",
            teacher=teacher,
        )
        run = Run(job, torch.device("cpu"))
        while not run.finished:
            run.run_epoch()
        store.add_epochs(run.epoch_rows(0))
        assert store.add_trial(run.row("completed"))
    return "results"


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*words]) == code
    out, err = capsys.readouterr()
    return str(err if code else out)


def test_it_is_described(installed: Path, capsys) -> None:
    text = said(capsys, "datasets", "lights")
    assert "multi-label" in text
    counts = load_dataset("lights").train.labels.eq(1).sum(0).tolist()
    assert f"{min(counts)} (" in text
    assert f"{max(counts)} (" in text


def test_a_trial_of_it(teacher: str, capsys) -> None:
    """With a teacher that was trained first; its card names the metric, and the lines do."""
    assert re.search(r"wrn_10_1 .* \d+\.\d\d % mAP ", said(capsys, "teacher", "list"))
    text = said(capsys, "trial", "lights.yaml", "method=kd")
    assert re.search(r"epoch   2 .* val \d+\.\d\d % mAP ", text)
    assert re.search(r"val_map +0\.\d+", text)
    assert re.search(r"test_map +0\.\d+", text)
    assert "_acc" not in text


def test_what_it_selects_by_is_its_metric(installed: Path) -> None:
    plain = STUDY | {"teacher": None, "dimensions": {"weight_decay": [0.0, 0.1]}}
    assert scored_by(MAP, parse_study(plain)).objectives == {"val_map": "max"}
    small = {"val_map": "max", "compression_params": "max"}
    found = scored_by(MAP, parse_study(STUDY))
    assert found.objectives == small
    assert scored_by(MAP, found) is found, "what was chosen once is the study's own"
    assert scored_by(ACC, parse_study(STUDY)) == parse_study(STUDY)
    for own in ({"val_score": "max"}, {"val_map": "max"}, {"val_loss": "min", "params": "min"}):
        assert scored_by(MAP, parse_study(STUDY | {"objectives": own})).objectives == own


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"objectives": {"val_acc": "max"}}, "objectives.val_acc: trials of 'lights' have none"),
        ({"objectives": {"test_map": "max"}}, "nothing is ever selected on the test set"),
        ({"dimensions": {"method": ["kd", "dkd"]}}, "method 'dkd': dkd takes it that an image is"),
        ({"dimensions": {"method": ["kd+ls"]}}, "method 'kd+ls': ls takes it that an image is of"),
    ],
)
def test_what_means_nothing_to_it_is_refused(
    installed: Path, capsys, changes: dict, expected: str
) -> None:
    Path("wrong.yaml").write_text(yaml.safe_dump(STUDY | changes))
    err = said(capsys, "run", "wrong.yaml", "--results", "none", code=2)
    assert expected in err
    assert err.count("\n") == 1
    assert not Path("none").exists()


def test_no_teacher_of_another_task(teacher: str, capsys) -> None:
    """A network with a softmax over the same classes says something else."""
    shutil.copytree("results/teachers", "others/teachers")
    file = Path(f"others/teachers/{teacher}.safetensors")
    content = file.read_bytes()
    old, new = b'\\"task\\": \\"multi-label\\"', b'\\"task\\":\\"single-label\\"'
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    err = said(capsys, "trial", "lights.yaml", "method=kd", "--results", "others", code=2)
    assert "was made for single-label images, dataset 'lights' is multi-label" in err


def test_weights_of_others_cannot_be_judged_by_it(teacher: str, capsys) -> None:
    file = f"results/teachers/{teacher}.safetensors"
    err = said(capsys, "teacher", "import", "wrn_10_1", file, "--dataset", "lights", code=2)
    assert "by 'lights', which is multi-label, nobody can tell" in err


def test_its_trials_are_shown_by_its_metric(results: str, capsys) -> None:
    frame = trials(results, ["s"]).set_index("method")
    assert list(frame.index) == METHODS
    assert set(frame["metric"]) == {"map"}
    assert frame[["val_acc", "test_acc", "teacher_test_acc"]].isna().all(axis=None)
    assert frame[["val_score", "test_score"]].notna().all(axis=None)
    assert frame.loc["kd", "teacher_test_score"] > 0.8
    metrics = json.loads(frame.loc["kd", "metrics"])
    by_class = metrics.pop("test_by_class")
    assert list(metrics) == ["val_f1", "val_image_ap", "test_f1", "test_image_ap"]
    assert list(by_class) == ["red", "green", "blue"]
    assert sum(by_class.values()) / 3 == pytest.approx(frame.loc["kd", "test_score"], abs=1e-9)
    (peer,) = json.loads(frame.loc["dml", "peers"])
    assert {"val_map", "test_map"} < peer.keys()
    curve = epochs(results, ["s"])
    last = curve[curve["epoch"] == 2].set_index("trial_id")["val_score"]
    assert last.tolist() == frame["val_score"].tolist()
    shown = said(capsys, "table", "s")
    assert "Test mAP in %" in shown
    assert "accuracy" not in shown
    assert f"{100 * frame.loc['kd', 'test_score']:.2f}" in shown
    by_validation = said(capsys, "table", "s", "--metric", "val_score")
    assert f"{100 * frame.loc['kd', 'val_score']:.2f}" in by_validation
    found = said(capsys, "front", "s", "--objective", "val_map=max", "--csv")
    assert found.startswith("method,student,compression_params,val_map,test_map,n,")
    assert frame["val_score"].idxmax() in found
    err = said(capsys, "front", "s", "--objective", "val_acc=max", code=2)
    assert "has val_acc: what they are measured by is map" in err
    assert said(capsys, "plot", "s") == "s.png\n"


def test_two_metrics_of_one_data_set_are_not_mixed(results: str) -> None:
    frame = trials(results, ["s"])
    frame.loc[0, "metric"] = "acc"
    with pytest.raises(UserError, match="trials of 'lights' have different metrics, acc and map"):
        front(frame, {"val_score": "max"})


@pytest.mark.slow
def test_a_sweep_of_it(
    site: Path, installed: Path, sites: Path, cluster: list[str], capsys
) -> None:
    """In processes of Ray, which find the package by themselves."""
    said(capsys, "teacher", "train", "lights.yaml", "--results", "swept")
    words = ["--max-concurrent", "1", *cluster, "--results", "swept"]
    with known_to_workers(site, sites):
        printed = said(capsys, "run", "lights.yaml", *words)
    assert "% mAP" in printed
    study = yaml.safe_load(Path("swept/lights/study.yaml").read_text())
    assert study["objectives"] == {"val_map": "max", "compression_params": "max"}
    where = ["lights", "--results", "swept"]
    assert "Test mAP in %" in said(capsys, "table", *where)
    assert "front over val_map max, compression_params max" in said(capsys, "front", *where)
    assert "nothing left to do" in said(capsys, "resume", *where)
