"""Logits that are no numbers, or say nothing: no metric takes them for good ones."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Content, Images
from trainables.data.labels import IGNORED
from trainables.errors import Diverged
from trainables.evaluation import score
from trainables.tasks.multi_label import (
    MULTI_LABEL,
    average_precision,
    eleven_point_precision,
    f1,
    image_precision,
    step_precision,
)
from trainables.tasks.registry import TASKS
from trainables.training import Training

CPU = torch.device("cpu")
OF_A_CLASS = [average_precision, eleven_point_precision, step_precision]
NO_NUMBERS = [math.nan, math.inf, -math.inf]
IMAGES, CLASSES = 24, 4


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def perfect(task: str) -> tuple[Tensor, Tensor]:
    """Logits that are right about every image, and its targets."""
    if task == "single-label":
        target = torch.arange(IMAGES) % CLASSES
        return 8.0 * torch.nn.functional.one_hot(target, CLASSES), target
    target = (torch.rand(IMAGES, CLASSES, generator=draw()) < 0.4).to(torch.uint8)
    return 8.0 * target.float() - 4, target


@pytest.mark.parametrize("task", [*TASKS])
@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("where", ["everywhere", "one image", "one logit", "the last"])
def test_a_network_that_says_no_numbers_has_no_score(task: str, value: float, where: str) -> None:
    logits, target = perfect(task)
    good = TASKS[task].score([(logits, target)])
    assert good.headline == 1.0
    place = {"everywhere": ..., "one image": 3, "one logit": (5, 0), "the last": (-1, -1)}[where]
    logits[place] = value
    found = TASKS[task].score(zip(logits.split(7), target.split(7), strict=True))
    assert found.values.keys() == good.values.keys()
    assert len(found.by_class) == len(good.by_class)
    numbers = [found.loss, *found.values.values(), *found.by_class]
    assert np.isnan(numbers).all(), found


@pytest.mark.parametrize("task", [*TASKS])
def test_the_largest_numbers_are_numbers(task: str) -> None:
    """Of a network that is nearly broken the headline is still what it is."""
    logits, target = perfect(task)
    found = TASKS[task].score([(logits * 1e37, target)])
    assert found.headline == 1.0


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_networks_are_scored_so(value: float) -> None:
    """Whatever its last logit: a network that is right about all the other images, too."""
    logits, target = perfect("multi-label")
    logits[-1, 0] = value
    pixels = torch.arange(IMAGES, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 200, 200)
    found = score(
        lambda some: logits[some[:, 0, 0, 0].long()], Images(pixels, target), CPU, MULTI_LABEL
    )
    assert math.isnan(found.headline)


@pytest.mark.parametrize("metric", [*OF_A_CLASS, f1])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_it_is_the_class_that_has_none(metric: Callable, value: float) -> None:
    logits, target = perfect("multi-label")
    target[2, 1] = IGNORED
    expected = metric(logits, target).tolist()
    ignored = logits.clone()
    ignored[2, 1] = value
    assert metric(ignored, target).tolist() == expected, "what is ignored may be anything"
    logits[2, 3] = value
    assert metric(logits, target).tolist() == pytest.approx([*expected[:3], math.nan], nan_ok=True)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_it_is_the_image_that_has_none(value: float) -> None:
    logits, target = perfect("multi-label")
    logits[2, 3] = value
    found = image_precision(logits, target)
    without = target.eq(1).any(1).logical_not()
    assert found.isnan().nonzero().flatten().tolist() == sorted(
        {2, *without.nonzero().flatten().tolist()}
    )


# Numbers that say nothing


@pytest.mark.parametrize("metric", OF_A_CLASS)
@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
@pytest.mark.parametrize("seed", range(3))
def test_who_says_the_same_of_all_images_has_the_precision_of_chance(
    metric: Callable, value: float, seed: int
) -> None:
    """In whatever order the images come."""
    target = (torch.rand(60, 5, generator=draw().manual_seed(seed)) < 0.3).to(torch.uint8)
    target[torch.rand(60, 5, generator=draw()) < 0.1] = IGNORED
    target = target[target[:, 0].sort(descending=True).indices]
    chance = [
        (column[column != IGNORED] == 1).double().mean().item() for column in target.unbind(1)
    ]
    found = metric(torch.full((60, 5), value), target)
    assert found.tolist() == pytest.approx(chance)


def test_who_says_the_same_of_all_classes_has_the_first_ones_share() -> None:
    target = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3])
    found = TASKS["single-label"].score([(torch.full((8, 4), 1e30), target)])
    assert found.values["acc"] == 1 / 8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_ties_come_at_once_whatever_the_order(seed: int, levels: int) -> None:
    """Beside scikit-learn's where definitions coincide, and at most the interpolated one."""
    generator = draw().manual_seed(seed)
    logits = torch.randint(levels, (40, 3), generator=generator).float()
    target = (torch.rand(40, 3, generator=generator) < 0.4).to(torch.uint8)
    steps = [average_precision_score(target[:, c], logits[:, c]) for c in range(3)]
    assert step_precision(logits, target).tolist() == pytest.approx(steps, abs=1e-12)
    voc = average_precision(logits, target)
    assert (voc.numpy() >= np.array(steps) - 1e-12).all()
    order = target[:, 0].sort(descending=True).indices  # those first that would profit
    for metric in OF_A_CLASS:
        turned = metric(logits[order], target[order])
        torch.testing.assert_close(turned, metric(logits, target), rtol=0, atol=1e-12)


# Sets that tell little


@pytest.mark.parametrize("logit", [-7.0, 0.0, 7.0])
def test_of_one_image_every_class_is_found(logit: float) -> None:
    """There is no other image to be told from: the definition, and no merit."""
    target = torch.tensor([[1, 0, IGNORED]], dtype=torch.uint8)
    found = MULTI_LABEL.score([(torch.full((1, 3), logit), target)])
    assert found.by_class == pytest.approx((1.0, math.nan, math.nan), nan_ok=True)
    assert found.values["map"] == 1.0
    assert found.values["f1"] == (1.0 if logit > 0 else 0.0)


def test_where_nothing_counts_there_is_no_metric() -> None:
    target = torch.full((3, 2), IGNORED, dtype=torch.uint8)
    found = MULTI_LABEL.score([(torch.randn(3, 2, generator=draw()), target)])
    assert np.isnan([*found.values.values(), *found.by_class]).all()


# A training of it


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_student_that_its_last_update_broke_is_no_candidate(
    quick: Callable[..., TrialConfig], value: float
) -> None:
    generator = draw()
    labels = (torch.rand(30, 3, generator=generator) < 0.5).to(torch.uint8)
    pixels = torch.randint(0, 256, (30, 3, 8, 8), generator=generator, dtype=torch.uint8)
    part = Images(pixels, labels)
    content = Content.measure(("a", "b", "c"), part, part, task="multi-label")
    data = content.dataset("lights", crop_padding=0, flip=False)
    config = quick(dataset="lights", batch_size=16, val_fraction=0.3, train_fraction=1.0, epochs=1)
    training = Training(config, data, "wrn_10_0.5", None, CPU)
    step = training.learner.step

    def broken(*args: object) -> Tensor:
        found = step(*args)  # type: ignore[arg-type]
        with torch.no_grad():
            training.student.classifier.bias[1] = value
        return found

    training.learner.step = broken  # type: ignore[method-assign]
    with pytest.raises(Diverged, match=r"validation loss is nan after epoch 1; lower lr"):
        training.run_epoch()
