"""Multi-label: every number against an independent reference, and the limits by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_curve
from torch import Tensor

from trainables.data.labels import IGNORED
from trainables.methods.kd import bernoulli_kd_loss, kd_loss
from trainables.methods.term import Batch, Mix, cross_entropy
from trainables.tasks.metrics import percent, shown_as
from trainables.tasks.multi_label import MULTI_LABEL, average_precision, f1
from trainables.tasks.single_label import SINGLE_LABEL


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def random(images: int, classes: int, levels: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (of few levels: with ties) and targets that they tell something of."""
    draw = torch.Generator().manual_seed(images + classes)
    target = (torch.rand(images, classes, generator=draw) < 0.3).to(torch.uint8)
    logits = torch.randn(images, classes, generator=draw) + target
    return (logits * levels).round() / levels if levels else logits, target


def reference(logits: np.ndarray, target: np.ndarray) -> float:
    """The area under the greatest precisions at a recall or a higher one, from the definition."""
    precision, recall, _ = precision_recall_curve(target, logits)
    area = 0.0
    for place in range(len(recall) - 1):  # recall falls from 1
        area += (recall[place] - recall[place + 1]) * precision[: place + 1].max()
    return area


@pytest.mark.parametrize("levels", [0, 2, 1])
def test_average_precision_is_the_definition(levels: int) -> None:
    logits, target = random(97, 5, levels)
    expected = [reference(logits[:, c].numpy(), target[:, c].numpy()) for c in range(5)]
    assert average_precision(logits, target).tolist() == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    # Best first: yes, no, no, yes, yes: precisions 1, 3/5 (over 2/4), 3/5.
    logits, target = column(5, 4, 3, 2, 1), column(1, 0, 0, 1, 1).to(torch.uint8)
    assert average_precision(logits, target).item() == pytest.approx((1 + 0.6 + 0.6) / 3)
    # All alike: a single threshold, at which three of five are right.
    assert average_precision(column(1, 1, 1, 1, 1), target).item() == pytest.approx(0.6)
    assert average_precision(-logits, column(0, 0, 0, 1, 1).to(torch.uint8)).item() == 1.0


def test_the_order_of_images_means_nothing() -> None:
    logits, target = random(60, 3, 1)
    turned = average_precision(logits.flip(0), target.flip(0))
    assert torch.equal(turned, average_precision(logits, target))


@pytest.mark.parametrize("metric", [average_precision, f1])
def test_what_is_ignored_counts_neither_way(metric) -> None:
    logits, target = random(50, 1)
    marked = torch.cat([target, torch.full((9, 1), IGNORED, dtype=torch.uint8)])
    more = torch.cat([logits, torch.linspace(-9, 9, 9).unsqueeze(1)])
    assert metric(more, marked).item() == metric(logits, target).item()


def test_f1_is_that_of_scikit_learn() -> None:
    logits, target = random(80, 4)
    expected = [f1_score(target[:, c], logits[:, c] > 0) for c in range(4)]
    assert f1(logits, target).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_a_score_is_the_mean_over_classes_that_some_image_has(dtype: torch.dtype) -> None:
    logits, target = random(70, 4)
    target[:, 2] = 0
    target = target.to(dtype)
    score = MULTI_LABEL.score(zip(logits.split(16), target.split(16), strict=True))
    some = [0, 1, 3]
    expected = np.mean([reference(logits[:, c].numpy(), target[:, c].numpy()) for c in some])
    assert list(score.values) == ["map", "f1", "image_ap"]
    assert score.headline == score.values["map"] == pytest.approx(expected, abs=1e-12)
    assert score.acc is None
    log = np.logaddexp(0, np.where(target.numpy(), -logits.numpy(), logits.numpy()).astype(float))
    assert score.loss == pytest.approx(log.mean(), rel=1e-7)
    assert MULTI_LABEL.cross_entropy(logits, target).item() == pytest.approx(log.mean(), rel=1e-5)


def test_without_any_yes_there_is_no_metric() -> None:
    score = MULTI_LABEL.score([(torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.uint8))])
    assert np.isnan([*score.values.values(), *score.by_class]).all()
    assert len(score.by_class) == 2
    assert score.loss == pytest.approx(np.log(2))


def test_the_loss_leaves_out_what_is_ignored() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    target = torch.tensor([[1, IGNORED], [0, 1]], dtype=torch.uint8)
    loss = MULTI_LABEL.cross_entropy(logits, target)
    loss.backward()
    expected = np.log1p(np.exp([-2.0, 0.5, -3.0])).mean()
    assert loss.item() == pytest.approx(expected)
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert (logits.grad.flatten()[[0, 2, 3]] != 0).all()


def test_mixed_images_have_mixed_labels() -> None:
    logits, target = random(6, 3)
    partner, share = torch.tensor([3, 4, 5, 0, 1, 2]), torch.tensor(0.3)
    batch = Batch(target, torch.arange(6), 0, 0, mix=Mix(partner, share), task=MULTI_LABEL)
    soft = 0.3 * target.float() + 0.7 * target[partner].float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft)
    assert cross_entropy(logits, batch).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_its_answers_make_kd_that_of_bernoulli(temperature: float) -> None:
    ours, theirs = random(8, 3)[0], random(8, 4)[0][:, :3]
    found = kd_loss(MULTI_LABEL.answers(ours), MULTI_LABEL.answers(theirs), temperature)
    assert found.item() == pytest.approx(bernoulli_kd_loss(ours, theirs, temperature).item())
    p = 1 / (1 + np.exp(-theirs.double().numpy() / temperature))
    q = 1 / (1 + np.exp(-ours.double().numpy() / temperature))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert found.item() == pytest.approx(temperature**2 * divergence.mean(), rel=1e-5)


def test_single_label_says_one_answer_to_one_question() -> None:
    logits = random(5, 4)[0]
    assert SINGLE_LABEL.answers(logits) is logits


def test_how_values_are_shown() -> None:
    assert percent(0.8123, "acc") == percent(0.8123, None) == "81.23 %"
    assert percent(0.8123, "map") == "81.23 % mAP"
    assert percent(0.8123, "theirs") == "81.23 % theirs"
    assert [shown_as("val", "acc"), shown_as("test", "map")] == ["validation accuracy", "test mAP"]
