"""`kdsweep run STUDY --dry-run`: it says what `run` would do, refuses what `run` refuses, writes
nothing and starts nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.commands.dry_run import _trials
from orchestrator.sweeps.journal import Journal
from orchestrator.sweeps.source import OptunaSource
from search_spaces.load import parse_study
from trainables.data.dataset import Dataset
from trainables.files import open_folder

STUDY = {
    "dataset": "digits",
    "teacher": {"model": "resnet8", "epochs": 1, "lr": 0.25},
    "fixed": {"student": "wrn", "epochs": 2, "batch_size": 256, "precision": "fp32"},
    "dimensions": {
        "method": ["student", "kd"],
        "factor": [2, 4],
        "kd.temperature": {"low": 1, "high": 8, "log": True},
        "lr": {"low": 0.1, "high": 0.3, "step": 0.1, "when": {"method": ["kd"]}},
    },
    "cover": ["method", "factor"],
    "trials": 7,
    "repeats": 3,
}

PROGRAM = """
import json, sys
from orchestrator.cli import main
code = main(sys.argv[1:])
print("LOADED", json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def contents(folder: Path) -> dict[Path, tuple[int, bytes | None]]:
    """All below a folder, and the folder: when it was changed, and the bytes of files."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted([folder, *folder.rglob("*")])
    }


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Rehearses a study as if in a shell, and gives what is printed, by the first two words."""
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def rehearse(*options: str, **changes) -> str:
        Path("my.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
        before = contents(tmp_path)
        code = main(["run", "my.yaml", "--dry-run", *options])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert contents(tmp_path) == before
        return "\n".join(" ".join(line.split()) for line in captured.out.splitlines())

    return rehearse


def test_it_says_what_would_run(said, tmp_path):
    text = said()
    for line in (
        "sweep my",
        "data digits: 1,438 training images 1x8x8, 10 classes",
        "students wrn_22_0.375, wrn_10_0.5",
        "trials 7 configs x 3 seeds = 21 trainings",
        "sampler tpe, seed 0; first 4 points that are given",
        "objectives val_acc max, compression_params max",
        f"results {tmp_path}/results/my",
        "method student, kd",
        "factor 2, 4",
        "kd.temperature 1 to 8, log",
        "lr 0.1 to 0.3 in steps of 0.1, where method is kd",
        "nothing was started, no result was written",
    ):
        assert line in text.splitlines(), text
    (teacher,) = [line for line in text.splitlines() if line.startswith("teacher")]
    assert teacher.startswith("teacher resnet8 to be trained first: epochs 1, batch_size 256, lr")


def test_a_grid_says_how_many(said):
    dimensions = {"method": ["student", "kd"], "factor": [2, 4], "kd.temperature": [1, 2, 4]}
    text = said(dimensions=dimensions, cover=[], sampler="grid", trials=None)
    assert "sampler grid of 8 points" in text  # without a temperature where there is no kd
    assert "trials 8 configs x 3 seeds = 24 trainings" in text
    text = said("--trials", "5", dimensions=dimensions, cover=[], sampler="grid")
    assert "trials 5 configs x 3 seeds = 15 trainings, of 8 points" in text


def test_it_says_every_guess(said, tmp_path, monkeypatch):
    guesses = said().count("guess: ")
    text = said("--results", "there", "--gpus-per-trial", "0.5", "--name", "mine")
    assert "guess: compression: factor, as its amount is given" in text
    assert "guess: objectives: val_acc, compression_params, since the study says none" in text
    assert "gpus-per-trial" not in text
    assert text.count("guess: ") == guesses - 1
    (tmp_path / "results/my").mkdir(parents=True)
    (tmp_path / "results/my/file").touch()
    monkeypatch.setenv("KDSWEEP_DATA", str(tmp_path))
    text = said("--set", "precision=auto", constraints={"latency_onnx_ms": "<= 1000"})
    assert "guess: name: my-2, since something there is called my\n" in text
    assert f"results {tmp_path}/results/my-2" in text
    assert f"guess: data: {tmp_path}, as KDSWEEP_DATA says" in text
    assert "guess: precision: bf16 for a network that it makes faster where it runs" in text
    assert "guess: latencies: eager+onnx, as objectives or constraints ask" in text
    assert "constraints latency_onnx_ms <= 1000" in text


def test_that_images_may_be_mirrored_is_a_guess_where_nobody_says(said, folder_of_images):
    images = {"dataset": f"imagefolder:{folder_of_images}", "teacher": None}
    changes = images | {"fixed": STUDY["fixed"] | {"student": "resnet8"}, "cover": ["lr"]}
    changes |= {"dimensions": {"lr": [0.1, 0.2]}, "sampler": "grid"}
    assert "guess: flip: images are mirrored" in said(**changes)
    assert "flip" not in said("--set", "flip=false", **changes)


@pytest.fixture
def folder_of_images(tmp_path_factory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for part in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            (folder / part / name).mkdir(parents=True)
            for shade in range(10):
                image = Image.new("RGB", (32, 32), (10 * shade, 99 * number, 7 * len(part)))
                image.save(folder / part / name / f"{shade}.png")
    return folder


def test_a_teacher_in_the_store_is_found_there(said, capsys):
    chain = {"model": "wrn_10_1", "epochs": 1, "method": "kd", "teacher": "resnet8"}
    text = said(teacher=chain)
    assert text.count("to be trained first") == 2
    assert main(["teacher", "train", "my.yaml"]) == 0
    capsys.readouterr()
    text = said(teacher=chain)
    assert "to be trained" not in text
    assert text.count("in the store: ") == 2
    (upper,) = Path("results/teachers").glob("resnet8-*.safetensors")
    assert f"teacher resnet8 in the store: {upper.stem}, " in text
    upper.unlink()
    text = said(teacher=chain)
    assert "teacher resnet8 not needed, since those below it are there: " in text


def test_what_run_refuses_it_refuses_in_the_same_words(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(yaml.safe_dump(STUDY))
    Path("taken/my").mkdir(parents=True)
    Path("taken/my/file").touch()
    imported = {"teacher": {"name": "nobody"}}
    Path("imported.yaml").write_text(yaml.safe_dump({**STUDY, **imported}))
    Path("endless.yaml").write_text(yaml.safe_dump({**STUDY, "trials": None}))
    Path("joined.yaml").write_text(
        yaml.safe_dump({**STUDY, "fixed": {**STUDY["fixed"], "compression": "depth"}})
    )
    before = contents(tmp_path)
    for words, expected in {
        "digitz": "unknown study",
        "my.yaml --set epoch=1": "unknown key 'epoch'",
        "my.yaml --trials 0": "trials",
        "my.yaml --set dataset=cifar10": "--data DIR",
        "my.yaml --set dataset=imagefolder:nowhere": "nowhere",
        "my.yaml --set val_fraction=0": "val_fraction is 0",
        "my.yaml --set teacher.model=resnet9": "unknown model 'resnet9'",
        "my.yaml --results taken --name my": "--name my",
        "my.yaml --results my.yaml": "is a file",
        "my.yaml --address 127.0.0.1:1": "nobody listens there",
        "my.yaml --max-concurrent 0": "--max-concurrent",
        "my.yaml --gpus-per-trial half": "--gpus-per-trial",
        "imported.yaml": "there is no teacher 'nobody'",
        "endless.yaml": "trials: expected how many configs",
        "joined.yaml": "depth: compression 'depth' needs its value",
    }.items():
        said = []
        for dry in ([], ["--dry-run"]):
            assert main(["run", *words.split(), *dry]) == 2, words
            said.append(capsys.readouterr())
        assert said[0] == said[1], words
        assert said[0].out == ""
        assert expected in said[0].err
        assert said[0].err.count("\n") == 1
    assert contents(tmp_path).keys() == before.keys()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(yaml.safe_dump(STUDY))
    Path("closed").mkdir(mode=0o555)
    assert main(["run", "my.yaml", "--dry-run", "--results", "closed/results"]) == 2
    assert "is not writable" in capsys.readouterr().err


def test_it_imports_no_ray_and_leaves_nothing(tmp_path, tmp_path_factory):
    """But decoded images, where every run finds them."""
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(STUDY))
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM, "run", "my.yaml", "--dry-run"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=tmp_path,
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "KDSWEEP_CACHE": str(tmp_path_factory.mktemp("cache")),
        },
    )
    code, loaded = json.loads(done.stdout.rpartition("LOADED ")[2])
    assert code == 0
    assert "torch" in loaded
    assert "ray" not in loaded
    assert contents(tmp_path) == before


def test_it_trains_nothing_and_reads_no_test_image(said, monkeypatch):
    def refuse(*anything):
        raise AssertionError("was asked for")

    monkeypatch.setattr("trainables.job.Run.__init__", refuse)
    monkeypatch.setattr(Dataset, "read_test", refuse)
    assert "to be trained first" in said()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "grid", "trials": None},
        {"sampler": "grid", "trials": 3},
        {"sampler": "grid", "trials": 99},
        {"sampler": "points", "points": [{"method": "student", "factor": 2}], "trials": None},
        {"dimensions": {}, "cover": [], "trials": None},
        {"dimensions": {}, "cover": [], "trials": 5},
    ],
)
def test_as_many_trainings_are_announced_as_a_sweep_gives(changes, tmp_path):
    dimensions = {"method": ["student", "kd"], "factor": [2, 4]}
    cover = [] if "sampler" in changes else ["method", "factor"]
    content = {**STUDY, "name": "s", "dimensions": dimensions, "cover": cover, **changes}
    study = parse_study(content)
    source = OptunaSource(study, Journal(open_folder(tmp_path)), "s")
    assert f" = {source.total} training" in f"{_trials(study)},"
