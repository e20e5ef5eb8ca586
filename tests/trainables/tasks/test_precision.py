"""Average precision by each of its definitions: they differ, and each has a name of its own."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from trainables.data.labels import IGNORED
from trainables.rows import metrics_of
from trainables.tasks.multi_label import (
    MULTI_LABEL,
    average_precision,
    eleven_point_precision,
    image_precision,
    step_precision,
)

OF_A_CLASS = [average_precision, eleven_point_precision, step_precision]


def random(images: int, classes: int, levels: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (of few levels: with ties) and targets, a tenth of them ignored."""
    draw = torch.Generator().manual_seed(images + classes + levels)
    target = (torch.rand(images, classes, generator=draw) < 0.3).to(torch.uint8)
    logits = torch.randn(images, classes, generator=draw) + target
    target[torch.rand(images, classes, generator=draw) < 0.1] = IGNORED
    return (logits * levels).round() / levels if levels else logits, target


def counted(logits: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of one column, what is not ignored: scores and answers."""
    counts = (target != IGNORED).numpy()
    return logits.numpy()[counts], target.numpy()[counts]


def eleven_points(logits: Tensor, target: Tensor) -> float:
    """The definition: at every recall, the greatest precision of a threshold that reaches it."""
    scores, yes = counted(logits, target)
    points = []
    for tenths in range(11):
        best = 0.0
        for threshold in np.unique(scores):
            said = scores >= threshold
            hits = int(yes[said].sum())
            if 10 * hits >= tenths * int(yes.sum()):
                best = max(best, hits / int(said.sum()))
        points.append(best)
    return sum(points) / 11


def test_four_definitions_of_one_table() -> None:
    """Two classes of three images; each number is another."""
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.6]])
    target = torch.tensor([[0, 1], [1, 0], [1, 1]], dtype=torch.uint8)
    found = [metric(logits, target).mean().item() for metric in (*OF_A_CLASS, image_precision)]
    # By hand. Class 0 falls: no, yes, yes: precisions 1/2, 2/3. Class 1: yes, no, yes: 1, 2/3.
    first = {"voc": (2 / 3 + 2 / 3) / 2, "eleven": 2 / 3, "step": (1 / 2 + 2 / 3) / 2}
    second = {"voc": (1 + 2 / 3) / 2, "eleven": (6 * 1 + 5 * 2 / 3) / 11, "step": (1 + 2 / 3) / 2}
    expected = [(first[name] + second[name]) / 2 for name in first]
    # Per image, the classes fall: no, yes; yes, no; yes, yes.
    assert found == pytest.approx([*expected, (1 / 2 + 1 + 1) / 3], abs=1e-12)
    assert [round(one, 4) for one in found] == [0.75, 0.7576, 0.7083, 0.8333]


@pytest.mark.parametrize("levels", [0, 3, 1])
def test_the_sum_of_steps_is_that_of_scikit_learn(levels: int) -> None:
    logits, target = random(90, 6, levels)
    pairs = [counted(logits[:, c], target[:, c]) for c in range(6)]
    expected = [average_precision_score(yes, scores) for scores, yes in pairs]
    assert step_precision(logits, target).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [0, 3, 1])
def test_eleven_points_are_the_definition(levels: int) -> None:
    logits, target = random(60, 5, levels)
    expected = [eleven_points(logits[:, c], target[:, c]) for c in range(5)]
    assert eleven_point_precision(logits, target).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [10, 20, 30])
def test_a_recall_of_exactly_a_tenth_is_reached(count: int) -> None:
    """Rounded, a recall of 3 / 10 may be less than 0.3: the point would be another's."""
    target = torch.ones(2 * count, 1, dtype=torch.uint8)
    target[1::2] = 0
    logits = -torch.arange(2.0 * count)[:, None]
    expected = eleven_points(logits[:, 0], target[:, 0])
    assert eleven_point_precision(logits, target).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [0, 2])
def test_an_image_is_judged_by_its_row(levels: int) -> None:
    logits, target = random(40, 9, levels)
    target[7] = 0
    found = image_precision(logits, target)
    assert found.shape == (40,)
    assert found[7].isnan()
    for row in range(40):
        scores, yes = counted(logits[row], target[row])
        if yes.any():
            assert found[row].item() == pytest.approx(average_precision_score(yes, scores))
    assert MULTI_LABEL.score([(logits, target)]).values["image_ap"] == pytest.approx(
        float(found.nanmean())
    )


@pytest.mark.parametrize("metric", OF_A_CLASS)
def test_what_holds_for_each(metric) -> None:
    logits, target = random(50, 4, 2)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(metric(logits[order], target[order]), metric(logits, target))
    # What is ignored may have any logit.
    loud = torch.where(target == IGNORED, 99.0, logits)
    assert torch.equal(metric(loud, target), metric(logits, target))
    # A class without a yes has none, be the rest no or ignored.
    none = target.clone()
    none[:, 1] = 0
    none[:, 2] = IGNORED
    found = metric(logits, none)
    assert found.isnan().tolist() == [False, True, True, False]
    # A perfect order, and booleans for labels.
    perfect = metric(torch.where(target == 1, 1.0, -1.0), target == 1)
    assert perfect.tolist() == [1.0] * 4
    assert found.dtype == torch.float64


def test_a_score_tells_each_class_of_its_mean() -> None:
    logits, target = random(70, 4)
    target[:, 2] = 0
    score = MULTI_LABEL.score(zip(logits.split(32), target.split(32), strict=True))
    expected = average_precision(logits, target).tolist()
    assert score.by_class == pytest.approx(expected, nan_ok=True)
    assert np.isnan(score.by_class[2])
    assert score.headline == pytest.approx(np.nanmean(score.by_class))


def test_a_row_has_every_class_by_its_name() -> None:
    val, test = {"map": 0.5, "f1": 0.25}, {"map": 0.75, "f1": float("nan")}
    text = metrics_of(val, test, {"dog": 0.75, "cow": float("nan")})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert text is not None
    assert json.loads(text, parse_constant=refuse) == {
        "val_f1": 0.25,
        "test_f1": None,
        "test_by_class": {"dog": 0.75, "cow": None},
    }
    assert metrics_of({"acc": 0.5}, {"acc": 0.5}, {}) is None
