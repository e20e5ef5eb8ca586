"""A short training in this process: its rows, its steps, what its networks see."""

import io
from typing import Any

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.teachers.teacher import Teacher
from trainables.training import Training
from trainables.training.feeding import Feed

CPU = torch.device("cpu")


def train(config: TrialConfig, dataset: Dataset, teacher: Teacher | None = None) -> Training:
    """A training of the config's own student on the CPU."""
    return Training(config, dataset, config.student, teacher, CPU)


def epochs(training: Training, count: int) -> list[dict[str, Any]]:
    """Rows without what the clock decides."""
    rows = [training.run_epoch() for _ in range(count)]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def one_batch(training: Training, indices: Tensor) -> Feed:
    """These images, as an epoch's stream gives them."""
    (feed,) = training.stream(0, [indices])
    return feed


def saved(training: Training) -> bytes:
    """What a file of its state holds."""
    buffer = io.BytesIO()
    torch.save(training.state_dict(), buffer)
    return buffer.getvalue()


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """And statistics, to the last bit."""
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def seen_by(network: torch.nn.Module) -> list[Tensor]:
    """Collects the inputs of a network's coming training steps."""
    inputs: list[Tensor] = []

    def record(module: torch.nn.Module, given: tuple[Tensor]) -> None:
        if module.training:
            inputs.append(given[0].clone())

    network.register_forward_pre_hook(record)
    return inputs
