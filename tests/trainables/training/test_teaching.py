"""A teacher in a training: the views that it sees, how deep it is asked, and that it stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from short_training import assert_same_weights, epochs, one_batch, seen_by, train
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.methods.method import Method
from trainables.models.outputs import Outputs
from trainables.teachers.teacher import Teacher
from trainables.training import Training

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def test_a_teacher_helps_it_agree(digits: Dataset, quick: Quick, digits_teacher) -> None:
    """KD alone, without labels, brings the student to the teacher's answers."""
    teacher = digits_teacher.load()
    config = quick(method="kd", teacher="resnet8", alpha=1.0, epochs=4, train_fraction=1.0)
    training = train(config, digits, teacher)
    images = digits.train.images

    def agreement() -> float:
        ours = training.student.eval()(to_float(images, digits.mean, digits.std)).logits.argmax(1)
        return (ours == teacher(images).logits.argmax(1)).float().mean().item()

    before = agreement()
    epochs(training, 4)
    assert before < 0.4
    assert agreement() > 0.8


class SpyTeacher(Teacher):
    """Remembers the views it was asked about, and how deep."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher.network, teacher.card, CPU)
        self.views: list[Tensor] = []
        self.depths: list[int | None] = []

    def __call__(
        self,
        views: Tensor,
        change: Callable[[Tensor], Tensor] | None = None,
        depth: int | None = None,
        *asked: Any,
    ) -> Outputs:
        self.views.append(views.clone())
        self.depths.append(depth)
        return super().__call__(views, change, depth, *asked)


def test_the_teacher_sees_exactly_the_students_views(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    spy = SpyTeacher(digits_teacher.load())
    config = quick(method="kd", teacher="resnet8", crop_padding=2, flip=True)
    training = train(config, digits, spy)
    inputs = seen_by(training.student)
    epochs(training, 2)
    assert len(inputs) == len(spy.views) == 2 * (len(training.stream.train_indices) // 32)
    for ours, theirs in zip(inputs, spy.views, strict=True):
        assert theirs.dtype == torch.uint8
        assert torch.equal(ours, to_float(theirs, digits.mean, digits.std))


@pytest.mark.parametrize(
    ("method", "settings", "depth"),
    [
        ("fitnet", {}, 2),
        ("at", {"stages": "0"}, 1),
        ("at+mixup", {"stages": "1"}, 2),
        ("kd+at", {"stages": "0"}, None),
    ],
)
def test_a_teacher_that_stops_early_teaches_the_same(
    digits: Dataset,
    quick: Quick,
    digits_teacher,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    settings: dict[str, Any],
    depth: int | None,
) -> None:
    config = quick(method=method, teacher="resnet8", precision="bf16", **settings)

    def steps() -> tuple[Tensor, Training, list[int | None]]:
        spy = SpyTeacher(digits_teacher.load())
        training = train(config, digits, spy)
        training.learner.train()
        batches = training.stream.train_indices[:96].split(32)
        losses = [training.learner.step(feed, epoch=0.0) for feed in training.stream(0, batches)]
        return torch.stack(losses), training, spy.depths

    losses, training, depths = steps()
    assert depths == 3 * [depth]
    monkeypatch.setattr(Method, "depth", lambda self, role: None)
    whole_losses, whole, depths = steps()
    assert depths == 3 * [None]
    assert torch.equal(losses, whole_losses)
    assert_same_weights(training.student, whole.student)
    assert_same_weights(training.method, whole.method)


def test_nothing_runs_behind_what_is_read(digits: Dataset, quick: Quick, digits_teacher) -> None:
    teacher = digits_teacher.load()
    ran: list[str] = []
    handles = [
        part.register_forward_hook(lambda _, __, ___, name=name: ran.append(name))
        for name, part in teacher.network.named_children()
    ]
    try:
        config = quick(method="fitnet", teacher="resnet8", crop_padding=0, flip=False)
        training = train(config, digits, teacher)
        ran.clear()
        training.learner.step(one_batch(training, training.stream.train_indices[:8]), 0.0)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == ["conv1", "bn1", "relu", "layer1", "layer2"]


def test_the_teacher_gets_its_own_normalisation(digits: Dataset, digits_teacher) -> None:
    loaded = digits_teacher.load()
    views = digits.train.images[:4]
    inputs: list[Tensor] = []
    handle = loaded.network.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        outputs = loaded(views)
    finally:
        handle.remove()
    torch.testing.assert_close(inputs[0], to_float(views, loaded.card.mean, loaded.card.std))
    assert not outputs.logits.requires_grad
    assert not loaded.network.training


def test_training_leaves_the_teacher_alone(digits: Dataset, quick: Quick, digits_teacher) -> None:
    teacher = digits_teacher.load()
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    training = train(quick(method="kd+at", teacher="resnet8"), digits, teacher)
    epochs(training, 1)
    after = teacher.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    ours = {
        id(weight)
        for group in training.learner.updates.optimizers["student"].param_groups
        for weight in group["params"]
    }
    assert ours.isdisjoint(id(weight) for weight in teacher.network.parameters())


def test_a_method_without_needs_asks_no_teacher(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    spy = SpyTeacher(digits_teacher.load())
    epochs(train(quick(teacher="resnet8"), digits, spy), 1)
    assert spy.views == []
