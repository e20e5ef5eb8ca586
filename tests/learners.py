"""Several learners on one stream, and the same trials alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.teachers.teacher import Teacher
from trainables.training import Training
from trainables.training.learner import Learner
from trainables.training.stream import Stream

CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "crd": {"negatives": 50},
    "dml": {"dml.peers": 2},
    "kd+fitnet": {"fitnet.schedule": "two_stage", "hint_fraction": 0.4},
}
DROPOUT = "mobilenetv2-minus15_x0.25"
"""A network of the zoo that draws in every pass."""


def study_together(stream: Stream, learners: Sequence[Learner], epoch: int) -> None:
    """An epoch of them all: each step of one is followed by the others' same step."""
    for learner in learners:
        learner.train()
    plan = stream.plan(epoch)
    for step, feed in enumerate(stream(epoch, plan)):
        for learner in learners:
            learner.step(feed, epoch + step / len(plan))
    stream.flush()


def start(
    configs: Sequence[TrialConfig], digits: Dataset, teacher: Teacher
) -> tuple[Stream, list[Learner]]:
    """A stream of the first config, and a learner of each on it."""
    stream = Stream(configs[0], digits, teacher, CPU)
    return stream, [Learner(config, config.student, stream) for config in configs]


def alone(config: TrialConfig, digits: Dataset, teacher: Teacher) -> Learner:
    """The same trial as everybody trains it."""
    training = Training(config, digits, config.student, teacher, CPU)
    for _ in range(config.epochs):
        training.run_epoch()
    return training.learner


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two states are not the same to the last bit."""
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [place]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [d for key in one for d in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for number, pair in pairs for d in differences(*pair, f"{place}.{number}")]
    return [] if one == other else [place]


def assert_same(one: Learner, other: Learner) -> None:
    """Weights, statistics, optimisers, what is drawn next, and the score of some images."""
    assert differences(one.state_dict(), other.state_dict()) == []
    images, some = one.stream.dataset.train, torch.arange(200)
    for name in one.networks:
        assert one.score(images, name, some) == other.score(images, name, some)
