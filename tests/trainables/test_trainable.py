"""DistillTrainable as Tune drives it, without a cluster."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.results.store import Store
from trainables.config import TrialConfig
from trainables.errors import DeviceError, OutOfMemoryError
from trainables.job import PROGRESS, STUDENT, Job
from trainables.models.weights import read_card, read_network
from trainables.trainable import DistillTrainable

Quick = Callable[..., TrialConfig]
MakeJob = Callable[..., Job]
Start = Callable[[Job], DistillTrainable]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    # Tune makes a log folder for every trainable, by default in the user's home.
    monkeypatch.setattr(
        "ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"), raising=False
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    started: list[DistillTrainable] = []

    def start(job: Job) -> DistillTrainable:
        started.append(DistillTrainable(config=job.to_dict()))
        return started[-1]

    yield start
    for trainable in started:
        trainable.stop()


def results_of(trainable: DistillTrainable) -> list[dict[str, Any]]:
    """Results until the trial is done."""
    results = [trainable.train()]
    while not results[-1]["done"]:
        results.append(trainable.train())
    return results


def test_a_step_is_an_epoch(quick: Quick, make_job: MakeJob, start: Start, tmp_path: Path) -> None:
    results = results_of(start(make_job(quick(), "steps")))
    assert [result["epoch"] for result in results] == [1, 2, 3]
    assert [result["done"] for result in results] == [False, False, True]
    for number, result in enumerate(results, start=1):
        (epoch,) = result["epochs"]
        (trial,) = result["trial"]
        assert epoch["epoch"] == trial["epochs"] == number
        assert result["val_acc"] == epoch["val_acc"] == trial["val_acc"]
        assert result["train_loss"] == epoch["train_loss"]
        assert trial["status"] == ("completed" if number == 3 else "stopped")
        assert ("test_acc" in trial) == (number == 3)
        assert Store(str(tmp_path), "s").add_trial(trial)


def test_an_actor_is_reused(quick: Quick, make_job: MakeJob, start: Start) -> None:
    first, second = make_job(quick(epochs=1), "use-1"), make_job(quick(epochs=2, seed=5), "use-2")
    trainable = start(first)
    results_of(trainable)
    assert trainable.reset(second.to_dict())
    results = results_of(trainable)
    assert [result["trial"][0]["trial_id"] for result in results] == ["use-2", "use-2"]
    assert [len(result["epochs"]) for result in results] == [1, 1]

    (fresh,) = results_of(start(make_job(quick(epochs=1, seed=5), "use-3")))
    again = start(make_job(quick(epochs=1), "use-4"))
    results_of(again)
    again.reset(make_job(quick(epochs=1, seed=5), "use-5").to_dict())
    (reused,) = results_of(again)
    assert reused["val_acc"] == fresh["val_acc"]
    assert reused["train_loss"] == fresh["train_loss"]


def failed(result: dict[str, Any], tmp_path: Path) -> str:
    """The error of a failed result."""
    assert result["done"]
    (trial,) = result["trial"]
    assert trial["status"] == "failed"
    assert "test_acc" not in trial
    assert json.loads(trial["config"])["epochs"] == 3
    assert trial["stage"] == "search"
    assert "\n" not in trial["error"]
    assert Store(str(tmp_path), "s").add_trial(trial)
    return str(trial["error"])


def test_divergence_fails_the_trial_not_the_actor(
    quick: Quick, make_job: MakeJob, start: Start, tmp_path: Path
) -> None:
    trainable = start(make_job(quick(lr=1e6, train_fraction=0.2), "diverges"))
    error = failed(trainable.train(), tmp_path)
    assert error.startswith("Diverged: the loss became")
    assert "epoch 1, term ce" in error
    assert trainable.reset(make_job(quick(epochs=1), "lives").to_dict())
    assert trainable.train()["trial"][0]["status"] == "completed"


class Breaks(torch.nn.Module):
    """A layer in which a library raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, *_: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), OutOfMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), OutOfMemoryError),
        (MemoryError(), OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: device-side assert triggered\n..."), DeviceError),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceError),
    ],
)
def test_a_full_memory_or_a_lost_device_ends_the_actor(
    quick: Quick, make_job: MakeJob, start: Start, raised: Exception, told: type[Exception]
) -> None:
    """Tune ends the process of an actor that raises: nothing else may run in it."""
    trainable = start(make_job(quick(), f"lost-{type(raised).__name__}"))
    trainable.train()
    trainable.run.training.student.classifier = Breaks(raised)
    with pytest.raises(told) as caught:
        trainable.train()
    assert "\n" not in str(caught.value)
    assert trainable.run is None


def test_a_fresh_start_is_said_once(quick: Quick, make_job: MakeJob, start: Start) -> None:
    job = make_job(quick(), "spoilt")
    first = start(job)
    assert first.train()["notes"] == []
    job.folder.write(PROGRESS, b"spoilt")
    results = results_of(start(job))
    assert [len(result["notes"]) for result in results] == [1, 0, 0]
    assert f"spoilt/{PROGRESS} is damaged" in results[0]["notes"][0]
    assert [result["epoch"] for result in results] == [1, 2, 3]


def test_a_job_that_cannot_start_fails_the_trial_not_the_actor(
    quick: Quick, make_job: MakeJob, start: Start, tmp_path: Path
) -> None:
    impossible = {
        "nobody": ({"method": "kd", "teacher": "x"}, {"teacher": "nobody"}, "unknown teacher"),
        "small": ({"student": "vgg11"}, {}, "needs images of at least 32x32"),
    }
    trainable = None
    for name, (values, facts, message) in impossible.items():
        job = make_job(quick(**values), f"impossible-{name}", **facts)
        if trainable is None:
            trainable = start(job)
        else:
            trainable.reset(job.to_dict())
        assert message in failed(trainable.train(), tmp_path)
    assert trainable is not None
    trainable.reset(make_job(quick(epochs=1), "possible").to_dict())
    assert trainable.train()["trial"][0]["status"] == "completed"


def test_a_config_that_this_worker_cannot_read_fails_the_trial(
    quick: Quick, make_job: MakeJob, start: Start, tmp_path: Path
) -> None:
    """For example a term of a package that is not installed there."""
    job = make_job(quick(teacher="resnet8"), "foreign")
    job.config["method"] = "kd+elsewhere"
    error = failed(start(job).train(), tmp_path)
    assert "unknown method 'elsewhere'" in error


def test_an_error_in_the_middle_keeps_the_epochs_before(
    quick: Quick, make_job: MakeJob, start: Start, tmp_path: Path
) -> None:
    trainable = start(make_job(quick(), "breaks"))
    trainable.train()
    # The student's head is lost, as after a bit flip: the next forward pass raises.
    trainable.run.training.student.classifier = torch.nn.Linear(3, 3)
    result = trainable.train()
    assert "RuntimeError" in failed(result, tmp_path)
    assert result["epochs"] == []
    assert result["trial"][0]["epochs"] == 1


def test_another_instance_takes_up_the_progress(
    quick: Quick, make_job: MakeJob, start: Start
) -> None:
    config = quick(method="kd+at", teacher="resnet8")
    (*_, calm) = results_of(start(make_job(config, "alive")))
    job = make_job(config, "dies")
    start(job).train()
    assert job.folder.exists(PROGRESS)
    results = results_of(start(make_job(config, "dies", attempt=2)))
    # The row of the epoch before may have died with its process: it is reported again.
    assert [[row["epoch"] for row in result["epochs"]] for result in results] == [[1, 2], [3]]
    (row,), (expected,) = results[-1]["trial"], calm["trial"]
    assert row["attempt"] == 2
    assert [row[key] for key in ("val_acc", "test_acc", "test_loss")] == [
        expected[key] for key in ("val_acc", "test_acc", "test_loss")
    ]
    ours, theirs = (
        read_network(job.folder, STUDENT)[1],
        read_network(make_job(config, "alive").folder, STUDENT)[1],
    )
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_checkpoints_of_tune(quick: Quick, make_job: MakeJob, start: Start, tmp_path: Path) -> None:
    """What schedulers such as PBT use: any instance continues from another's checkpoint."""
    donor = start(make_job(quick(), "donor"))
    donor.train()
    donor.save_checkpoint(str(tmp_path))
    expected = donor.train()
    heir = start(make_job(quick(), "heir"))
    heir.load_checkpoint(str(tmp_path))
    result = heir.train()
    assert result["epoch"] == 2
    assert result["train_loss"] == expected["train_loss"]
    assert result["val_acc"] == expected["val_acc"]


def test_resources_are_those_of_the_job(quick: Quick, make_job: MakeJob) -> None:
    def bundles(**facts: float) -> list[dict[str, float]]:
        config = make_job(quick(), "r", **facts).to_dict()
        return DistillTrainable.default_resource_request(config).bundles

    assert bundles() == [{"CPU": 1.0}]
    assert bundles(cpus=2.0, gpus=0.25) == [{"CPU": 2.0, "GPU": 0.25}]


def test_a_finished_students_card_is_its_row(quick: Quick, make_job: MakeJob, start: Start) -> None:
    job = make_job(quick(epochs=1), "carded")
    (result,) = results_of(start(job))
    card = read_card(job.folder, STUDENT)
    assert card.name == "carded"
    assert card.test_acc == result["trial"][0]["test_acc"]
