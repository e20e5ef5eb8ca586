"""`kdsweep trial` where it fails: one line with the right advice, and all of it if asked for."""

import json
import pdb
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest
import torch

from orchestrator.cli import main
from trainables.models.weights import read_network, save_network
from trainables.teachers.teacher import load_teacher, teacher_folder
from trainables.training import Training
from trainables.training.learner import Learner

Trial = Callable[..., tuple[int, str, str]]

QUICK = [
    *("compression=explicit", "student=wrn_10_0.5", "epochs=2", "train_fraction=0.1"),
    *("teacher.model=resnet8", "teacher.epochs=1", "precision=fp32", "val_fraction=0.2"),
]


@pytest.fixture
def trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Trial:
    """Runs `kdsweep trial`; returns its exit code, and what it said and complained of."""
    monkeypatch.delenv("KDSWEEP_DEBUG", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        results = ["--results", str(tmp_path / "results")]
        code = main(["trial", "digits", *QUICK, *arguments, *results])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Has the training's steps raise something."""

    def raise_it(error: BaseException) -> None:
        def step(learner: Learner, *_: object) -> None:
            raise error

        monkeypatch.setattr(Learner, "step", step)

    return raise_it


def assert_one_line(err: str, *parts: str) -> None:
    assert err.startswith("kdsweep: ")
    assert err.count("\n") == 1, err
    assert len(err) < 300
    for part in parts:
        assert part in err


def test_divergence(trial: Trial) -> None:
    code, _, err = trial("method=student", "lr=1e30", "batch_size=16")
    assert code == 1
    assert_one_line(err, "the loss became", "in epoch 1, term ce", "lower lr")


def test_one_image_a_step(trial: Trial) -> None:
    code, _, err = trial("method=student", "student=mobilenetv2", "batch_size=1")
    assert code == 1
    assert_one_line(err, "BatchNorm", "batch_size >= 2")


def test_a_teacher_that_says_no_numbers(
    trial: Trial, raising: Callable[[BaseException], None], tmp_path: Path
) -> None:
    assert trial("method=kd")[0] == 0
    folder = teacher_folder(str(tmp_path / "results"))
    (file,) = folder.names(".safetensors")
    card, network = read_network(folder, file)
    network.classifier.bias.data[0] = float("nan")
    save_network(folder, file, network, card)
    load_teacher.cache_clear()
    raising(AssertionError("trained a step with it"))
    code, out, err = trial("method=kd")
    assert code == 1
    assert_one_line(err, f"teacher {card.name} says nan to images of the data", "train it again")
    assert "lower lr" not in err
    assert "epoch" not in out


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "of the GPU is"),
        (MemoryError(), "memory of the host is full"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered\n..."), "GPU was lost"),
        (OSError(28, "No space left on device", "/a/b"), "/a/b: No space left on device"),
        (OSError("When reading: AWS Error NETWORK_CONNECTION"), "NETWORK_CONNECTION"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_the_machine_or_the_user_ends(
    trial: Trial, raising: Callable[[BaseException], None], error: BaseException, part: str
) -> None:
    raising(error)
    code, _, err = trial("method=student")
    assert code == 1
    assert_one_line(err, part)


def test_a_fault_of_ours_keeps_its_traceback(
    trial: Trial, raising: Callable[[BaseException], None]
) -> None:
    raising(KeyError("bug"))
    code, _, err = trial("method=student")
    assert code == 1
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("kdsweep: a fault of kdsweep itself (KeyError)")


@pytest.mark.parametrize("how", ["--debug", "KDSWEEP_DEBUG"])
def test_all_of_it_if_asked_for(
    trial: Trial,
    raising: Callable[[BaseException], None],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."))
    if how == "KDSWEEP_DEBUG":
        monkeypatch.setenv(how, "1")
    code, _, err = trial("method=student", *([how] if how == "--debug" else []))
    assert code == 1
    assert "torch.OutOfMemoryError: CUDA out of memory" in err, "where it came from"
    last = err.splitlines()[-1]
    assert last.startswith("kdsweep: ")
    assert "the memory of the GPU is full" in last


def test_mistakes_have_a_traceback_too_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDSWEEP_DEBUG", "1")
    assert main(["studies", "nope"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("kdsweep: unknown study 'nope'")


def test_the_debugger_stands_where_it_broke(
    trial: Trial, raising: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(torch.OutOfMemoryError("CUDA out of memory."))
    places: list[str] = []

    def post_mortem(traceback: TracebackType) -> None:
        while traceback.tb_next is not None:
            traceback = traceback.tb_next
        places.append(traceback.tb_frame.f_code.co_name)

    monkeypatch.setattr(pdb, "post_mortem", post_mortem)
    code, _, err = trial("method=student", "--pdb")
    assert code == 1
    assert places == ["step"]
    assert "Traceback" in err


def test_a_profile_that_cannot_be_written_is_refused_first(trial: Trial, tmp_path: Path) -> None:
    for file, reason in ((tmp_path / "no" / "p.json", "No such file"), (tmp_path, "directory")):
        code, out, err = trial("method=student", "--profile", str(file))
        assert code == 2
        assert_one_line(err, f"--profile {file}: cannot be written: ", reason)
        assert out == ""


def test_a_trial_that_fails_leaves_the_profile_it_has(
    trial: Trial, raising: Callable[[BaseException], None], tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    good = Training.run_epoch

    def run_epoch(training: Training) -> dict[str, object]:
        if training.epoch == 1:
            good(training)
            raise MemoryError
        return good(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "run_epoch", run_epoch)
        code, out, _ = trial("method=student", "--profile", str(file))
    assert code == 1
    assert "trace of epoch 2" in out
    assert json.loads(file.read_text())["traceEvents"]
    raising(MemoryError())
    file.unlink()
    code, out, _ = trial("method=student", "--profile", str(file))
    assert code == 1
    assert "no profile: the trial ended before epoch 2" in out
    assert not file.exists()
