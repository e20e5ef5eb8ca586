"""Mixed images in a training: what the teacher sees of them, and how its answers are mixed."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from short_training import epochs, one_batch, seen_by, train
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.methods.kd import kd_loss
from trainables.methods.term import Batch
from trainables.teachers.teacher import Teacher

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def pixels_of(inputs: list[Tensor], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Network inputs in levels from 0 to 255, before normalisation."""
    scale, shift = (torch.tensor(value).view(-1, 1, 1) for value in (std, mean))
    return 255 * (torch.cat(inputs) * scale + shift)


@pytest.mark.parametrize("form", ["image", "logits"])
def test_what_the_teacher_sees_of_mixed_images(
    digits: Dataset, quick: Quick, digits_teacher, form: str
) -> None:
    teacher = digits_teacher.load()
    card = dataclasses.replace(teacher.card, mean=(0.2,), std=(0.7,))  # another normalisation
    config = quick(method="kd+mixup", teacher="resnet8", **{"mixup.teacher_mix": form})
    training = train(config, digits, Teacher(teacher.network, card, CPU))
    ours, theirs = seen_by(training.student), []
    hook = teacher.network.register_forward_pre_hook(lambda _, given: theirs.append(given[0]))
    try:
        training.run_epoch()
    finally:
        hook.remove()
    student = pixels_of(ours, digits.mean, digits.std)
    taught = pixels_of(theirs, (0.2,), (0.7,))
    assert (student - student.round()).abs().max() > 0.1, "student's images are mixed"
    if form == "image":
        torch.testing.assert_close(taught, student, rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(taught, taught.round(), rtol=0, atol=1e-3)


def test_mixed_answers_of_the_teacher(digits: Dataset, quick: Quick, digits_teacher) -> None:
    """The whole first step by hand."""
    teacher = digits_teacher.load()
    settings = {"kd.alpha": 1.0, "kd.temperature": 3.0, "mixup.teacher_mix": "logits"}
    training = train(quick(method="kd+mixup", teacher="resnet8", **settings), digits, teacher)
    indices = training.stream.train_indices[:32]
    views = training.stream.views.images(digits.train.images, 0, indices)
    torch.manual_seed(7)
    modifier = training.method.input_modifiers["mixup"]
    mix = modifier.draw(Batch(training.stream.labels[indices], indices, 0.0, 0.0)).mix
    with torch.no_grad():
        mixed = mix(to_float(views, digits.mean, digits.std))
        said = copy.deepcopy(training.student).train()(mixed).logits
        expected = kd_loss(said, mix(teacher(views).logits), 3.0)
    training.learner.train()
    with training.learner.random:
        torch.manual_seed(7)
        losses = training.learner.step(one_batch(training, indices), 0.0)
    torch.testing.assert_close(losses, torch.stack([0 * expected, expected]))


def test_remembered_answers_are_mixed_like_fresh_ones(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    rows = {}
    for cache in ("off", "float32"):
        config = quick(
            method="kd+mixup",
            teacher="resnet8",
            teacher_cache=cache,
            **{"mixup.teacher_mix": "logits"},
        )
        training = train(config, digits, digits_teacher.load())
        rows[cache] = epochs(training, 3)
        assert (training.learner.lessons["teacher"].answers is None) == (cache == "off")
    assert rows["float32"] == rows["off"]


def test_function_matching_teaches(digits: Dataset, quick: Quick, digits_teacher) -> None:
    config = quick(
        method="kd+mixup", teacher="resnet8", epochs=4, train_fraction=1.0, **{"kd.alpha": 1.0}
    )
    training = train(config, digits, digits_teacher.load())
    rows = epochs(training, 4)
    assert rows[-1]["term_losses"]["ce"] == 0
    assert rows[-1]["val_acc"] > 0.75


def test_mixing_draws_differ_from_step_to_step(digits: Dataset, quick: Quick) -> None:
    training = train(quick(method="mixup", train_fraction=0.1), digits)
    shares = []
    draw = training.method.input_modifiers["mixup"].draw

    def spied(batch):
        batch = draw(batch)
        shares.append(batch.mix.share.item())
        return batch

    training.method.input_modifiers["mixup"].draw = spied
    epochs(training, 2)
    assert len(set(shares)) == len(shares) > 4
