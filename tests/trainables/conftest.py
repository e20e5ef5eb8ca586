"""A small teacher on the digits, trained once per test session, and configs that train fast."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.job import Job
from trainables.models.weights import Card
from trainables.recipes import recipe
from trainables.teacher_training import train_teacher
from trainables.teachers.teacher import Teacher, load_teacher
from trainables.training import Training

CPU = torch.device("cpu")


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a device: reading values, or sizes from values."""

    WAITING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if func is torch.ops.aten.index.Tensor else ()
        masked = any(index is not None and index.dtype == torch.bool for index in indices)
        assert func not in self.WAITING, func
        assert not masked, func
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_waiting() -> type[NoWaiting]:
    """A context that fails where the host would wait for a device."""
    return NoWaiting


class FiledTeacher(NamedTuple):
    """A teacher in a results folder of its own.

    Attributes:
        results: the folder.
        file: the teacher's file name there, without suffix.
        card: its facts.
    """

    results: str
    file: str
    card: Card

    def load(self) -> Teacher:
        return load_teacher(self.results, self.file, "cpu")


def quick_config(**changes: object) -> TrialConfig:
    """A trial of some 130 images per epoch, unless ``changes`` say otherwise."""
    values: dict[str, object] = {
        "dataset": "digits",
        "student": "wrn_10_0.5",
        "epochs": 3,
        "batch_size": 32,
        "lr": 0.1,
        "train_fraction": 0.1,
        "precision": "fp32",
        "teacher_cache": "off",
    }
    return TrialConfig.from_mapping(values | changes)


@pytest.fixture
def quick() -> Callable[..., TrialConfig]:
    return quick_config


@pytest.fixture
def few_images_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever times steps of a method takes the least number, of some images."""

    def step(training: Training) -> None:
        training.learner.train()
        (feed,) = training.stream(0, [torch.arange(4)])
        training.learner.step(feed, training.config.epochs / 2)

    monkeypatch.setattr("trainables.timing._BUDGET_SECONDS", 0.0)
    monkeypatch.setattr("trainables.timing.step", step)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def digits_teacher(tmp_path_factory: pytest.TempPathFactory) -> FiledTeacher:
    """resnet8 after two epochs: good enough to teach something."""
    results = str(tmp_path_factory.mktemp("teacher"))
    config = quick_config(student="resnet8", epochs=2, train_fraction=1.0)
    plan = recipe(config, None)
    card = train_teacher(plan, results, None, CPU, on_epoch=lambda row: None)
    return FiledTeacher(results, plan.key, card)


@pytest.fixture
def make_job(digits_teacher: FiledTeacher) -> Callable[..., Job]:
    """A job in the teacher's results folder, which checkpoints after every epoch."""

    def make(config: TrialConfig, trial_id: str, **changes: object) -> Job:
        facts: dict[str, object] = {
            "config": config.to_dict(),
            "sweep": "s",
            "trial_id": trial_id,
            "results": digits_teacher.results,
            "teacher": digits_teacher.file if config.teacher else None,
            "checkpoint_seconds": 0.0,
        }
        return Job(**(facts | changes))

    return make
