"""MKD against float64 references, the papers' own sums, and values worked out by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_term import OURS, THEIRS, batch_of, random_outputs

from trainables.methods.changes import Mix
from trainables.methods.kd import kd_loss
from trainables.methods.method import Method
from trainables.methods.mkd import MKD, MKDConfig, confidence, mkd_loss
from trainables.methods.registry import resolve_settings
from trainables.methods.term import Batch
from trainables.models.outputs import Outputs
from trainables.tasks.multi_label import MULTI_LABEL

Array = np.ndarray
SIZES = [(1, 2, 1), (3, 10, 2), (16, 7, 3), (8, 100, 5)]


def draw(*shape: int, seed: int) -> Array:
    return 3 * np.random.default_rng([seed, *shape]).standard_normal(shape)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def tensor(values: Array) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def weights_of(teachers: Array, target: Array) -> Array:
    """Equation 3 of Zhang et al., word for word; one teacher is trusted wholly."""
    number, images, _ = teachers.shape
    losses = -np.log(softmax(teachers)[:, np.arange(images), target])
    if number == 1:
        return np.ones((1, images))
    return (1 - np.exp(losses) / np.exp(losses).sum(0)) / (number - 1)


@pytest.mark.parametrize(("images", "classes", "number"), SIZES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weighting", ["equal", "confidence"])
def test_value(images: int, classes: int, number: int, temperature: float, weighting: str) -> None:
    ours, theirs = draw(images, classes, seed=1), draw(number, images, classes, seed=2)
    target = np.arange(images) % classes
    weights = weights_of(theirs, target) if weighting == "confidence" else None
    mean = np.average(
        softmax(theirs / temperature),
        axis=0,
        weights=None if weights is None else np.broadcast_to(weights[..., None], theirs.shape),
    )
    divergence = (mean * (np.log(mean) - np.log(softmax(ours / temperature)))).sum(1).mean()
    given = None
    if weights is not None:
        shares = F.one_hot(torch.from_numpy(target), classes).float()
        given = confidence([*tensor(theirs)], shares)
        np.testing.assert_allclose(given.numpy(), weights, rtol=1e-4, atol=1e-6)
    found = mkd_loss(tensor(ours), [*tensor(theirs)], temperature, given)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(temperature**2 * divergence, rel=1e-4, abs=1e-6)


def test_gradients_are_those_of_the_papers_sums() -> None:
    """Both papers have a sum over the teachers where we have the divergence from their mean."""
    ours, theirs = tensor(draw(8, 10, seed=1)), [*tensor(draw(3, 8, 10, seed=2))]
    weights = torch.rand(3, 8, generator=torch.Generator().manual_seed(0)).softmax(0)

    def slope(loss_of_student) -> torch.Tensor:
        leaf = ours.clone().requires_grad_()
        loss_of_student(leaf).backward()
        assert leaf.grad is not None
        return leaf.grad

    def divergences(student: torch.Tensor) -> torch.Tensor:
        log = F.log_softmax(student / 2, 1)
        each = [(F.softmax(z / 2, 1) * (F.log_softmax(z / 2, 1) - log)).sum(1) for z in theirs]
        return 4 * (torch.stack(each) * weights).sum(0).mean()

    torch.testing.assert_close(
        slope(lambda student: mkd_loss(student, theirs, 2.0, weights)), slope(divergences)
    )


def test_confidence_by_hand() -> None:
    """Cross-entropies 0+ and ln 3 of two teachers: softmax (1/4, 3/4), so weights 3/4 and 1/4."""
    sure = torch.tensor([[40.0, 0.0]])
    unsure = torch.tensor([[0.0, math.log(2)]])  # p of class 0: 1/3
    found = confidence([sure, unsure], torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.75], [0.25]]))


def test_confidence_follows_mixed_labels() -> None:
    """λ of one class and 1 − λ of another: so is the teachers' cross-entropy."""
    draw_ = torch.Generator().manual_seed(3)
    theirs = [torch.randn(4, 10, generator=draw_) for _ in range(2)]
    target, partner = torch.arange(4), torch.tensor([1, 0, 3, 2])
    mix = Mix(partner, torch.tensor(0.3))
    batch = Batch(target, target, 0.0, 0.0, mix=mix)
    losses = torch.stack(
        [
            0.3 * F.cross_entropy(z, target, reduction="none")
            + 0.7 * F.cross_entropy(z, target[partner], reduction="none")
            for z in theirs
        ]
    )
    torch.testing.assert_close(confidence(theirs, batch.shares(10)), 1 - losses.softmax(0))


def test_of_one_teacher_it_is_kd() -> None:
    ours, theirs = tensor(draw(8, 10, seed=1)), tensor(draw(8, 10, seed=2))
    torch.testing.assert_close(mkd_loss(ours, [theirs], 3.0), kd_loss(ours, theirs, 3.0))
    said, taught = (Outputs(logits, torch.zeros(8, 1), ()) for logits in (ours, theirs))
    alone = Batch(torch.arange(8), torch.arange(8), 0.0, 0.0)
    for weighting in ("equal", "confidence"):
        term = MKD(MKDConfig(weighting=weighting, alpha=1.0, temperature=3.0), OURS, THEIRS)
        torch.testing.assert_close(term(said, taught, alone), kd_loss(ours, theirs, 3.0))


def test_zero_where_the_student_says_the_mean() -> None:
    theirs = [*tensor(draw(2, 5, 10, seed=2))]
    mean = torch.stack([z.softmax(1) for z in theirs]).mean(0).log()
    assert abs(mkd_loss(mean + 7, theirs, 1.0).item()) < 1e-5


def test_teachers_that_are_sure_of_different_classes() -> None:
    """No logarithm of 0: each gives what the other calls impossible a probability of one half."""
    theirs = [torch.tensor([[300.0, 0.0]]), torch.tensor([[0.0, 300.0]])]
    assert mkd_loss(torch.zeros(1, 2), theirs, 1.0).item() == pytest.approx(0, abs=1e-6)
    weights = torch.tensor([[1.0], [0.0]])
    expected = math.log(2)
    assert mkd_loss(torch.zeros(1, 2), theirs, 1.0, weights).item() == pytest.approx(expected)


def test_of_independent_classes_it_is_the_mean_of_yes_and_no() -> None:
    draw_ = torch.Generator().manual_seed(3)
    ours, *theirs = (torch.randn(4, 10, generator=draw_) for _ in range(3))
    said, *taught = (Outputs(logits, torch.zeros(4, 1), ()) for logits in (ours, *theirs))
    target = (torch.randn(4, 10, generator=draw_) > 0).float()
    others = {"wide": taught[1]}
    batch = Batch(target, torch.arange(4), 0.0, 0.0, task=MULTI_LABEL, teachers=others)
    yes = torch.stack([z.div(2).sigmoid() for z in theirs]).mean(0)
    own = ours.div(2).sigmoid()
    expected = yes * (yes / own).log() + (1 - yes) * ((1 - yes) / (1 - own)).log()
    term = MKD(MKDConfig(alpha=0.5, temperature=2.0), OURS, THEIRS)
    torch.testing.assert_close(term(said, taught[0], batch), 0.5 * 4 * expected.mean())
    assert not term.one_of_many
    assert MKD(MKDConfig(weighting="confidence"), OURS, THEIRS).one_of_many


def test_a_modifier_of_logits_changes_those_of_every_teacher() -> None:
    settings = resolve_settings("mkd+ls", {})
    made = Method("mkd+ls", settings, OURS, THEIRS, others={"second": THEIRS})
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    batch = batch_of(torch.arange(4))
    second = batch.teachers["second"]
    changed = [made.modifiers["ls"](one.logits) for one in (student, teacher, second)]
    expected = made.factor * 0.9 * mkd_loss(changed[0], changed[1:], 4.0)
    torch.testing.assert_close(made(student, teacher, batch)[1], expected)
