"""A learner: what it may share with others, what its terms are shown, what follows a step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from learners import start, study_together
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.methods.kd import KD
from trainables.methods.term import Batch
from trainables.training import Training
from trainables.training.learner import Learner
from trainables.training.stream import Stream

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    "change",
    [
        *({"seed": 1}, {"view_seed": 1}, {"split_seed": 1}, {"batch_size": 16}, {"flip": True}),
        *({"train_fraction": 0.2}, {"val_fraction": 0.3}, {"crop_padding": 0}),
        {"resized_crops": 4},
        *({"teacher_cache": "float16"}, {"teacher_precision": "bf16"}, {"precision": "bf16"}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_student_of_another_repeat_is_refused(
    digits: Dataset, repeat: Quick, digits_teacher, change: dict[str, Any]
) -> None:
    config = repeat(method="kd")
    stream = Stream(config, digits, digits_teacher.load(), CPU)
    with pytest.raises(ValueError, match=f"another repeat.*{next(iter(change)).split('_')[0]}"):
        Learner(config.replace(**change), "wrn_10_0.5", stream)


def test_what_a_student_has_of_its_own_may_differ(
    digits: Dataset, repeat: Quick, digits_teacher
) -> None:
    stream = Stream(repeat(method="kd"), digits, digits_teacher.load(), CPU)
    for config in (
        repeat(method="student", teacher=None, precision="bf16"),
        repeat(method="at", lr=1.0, epochs=9, optimizer="adam", channels_last=False),
        repeat(method="kd", precision="bf16", teacher_precision="fp32"),
    ):
        Learner(config, "wrn_10_0.5", stream)


def test_the_offsets_of_the_views_reach_the_terms(
    digits: Dataset, repeat: Quick, digits_teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = repeat(method="kd", flip=True)
    stream, (learner,) = start([config], digits, digits_teacher.load())
    shown: list[Batch] = []
    monkeypatch.setattr(KD, "after_step", lambda term, batch: shown.append(batch))
    study_together(stream, [learner], 0)
    for batch, feed in zip(shown, stream(0, stream.plan(0)), strict=True):
        images = digits.train.images[batch.indices]
        assert torch.equal(stream.views.show(images, batch.offsets), feed.views)


@pytest.mark.parametrize("method", ["kd", "kd+dml"])
def test_what_is_done_after_a_step(
    digits: Dataset, repeat: Quick, digits_teacher, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """All networks have had their updates by then, and nothing has a gradient."""
    stream, (learner,) = start([repeat(method=method)], digits, digits_teacher.load())

    def firsts() -> list[Tensor]:
        networks = learner.networks.values()
        return [next(network.parameters()).detach().clone() for network in networks]

    then: list[list[Tensor]] = []

    def after_step(term: KD, batch: Batch) -> None:
        assert not torch.is_grad_enabled()
        then.append(firsts())

    monkeypatch.setattr(KD, "after_step", after_step)
    learner.train()
    feeds = stream(0, stream.plan(0))
    for step in range(2):
        before = firsts()
        learner.step(next(feeds), 0.0)
        assert len(then) == step + 1
        assert not any(map(torch.equal, before, then[-1]))
        assert all(map(torch.equal, firsts(), then[-1]))


def test_another_machines_precision_has_tables_of_its_own(
    digits: Dataset, repeat: Quick, digits_teacher
) -> None:
    config = repeat(method="kd", teacher_cache="float16")
    here, there = (
        Training(one, digits, one.student, digits_teacher.load(), CPU)
        for one in (config, config.replace(teacher_precision="bf16"))
    )
    here.load_state_dict(there.state_dict())
    lesson = here.learner.lessons["teacher"]
    assert lesson
    assert lesson.precision == here.teacher_precision == "bf16"
    assert lesson.answers.precision == lesson.answers.tables["logits"].key.precision == "bf16"
