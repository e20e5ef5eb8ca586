"""EWA, SWA and SSWA: their maps in plain numbers, and closed forms against autograd."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.compression.prune import Prune
from trainables.compression.sparsify import Sparsify
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.methods.ewa import ewa_loss
from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings
from trainables.methods.sswa import kept_channels, sswa_loss
from trainables.methods.swa import SWA, SWAConfig, sensitivity_map, swa_loss
from trainables.methods.term import Batch
from trainables.models.fake_quantised import FakeQuantisedLinear
from trainables.models.features import CLASS_WEIGHTS, with_features
from trainables.models.outputs import Outputs
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.training import Training
from trainables.training.steps import take_steps

Array = np.ndarray
CPU = torch.device("cpu")
LINEAR = [  # a linear classifier on the last stage, and the images' size
    ("resnet8", 32),
    ("wrn_10_0.5", 32),
    ("mobilenetv2_s2_x0.25", 32),
    ("vgg11_gap_x0.125", 32),
    ("vgg11_x0.125", 32),  # maxima of regions, one position
    ("vgg11_x0.125", 72),  # several positions, after maxima that leave out a row
    ("torchvision:densenet121", 64),
]


def draw(*shape: int, seed: int) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensors(*arrays: Array) -> list[Tensor]:
    return [torch.tensor(one, dtype=torch.float32, requires_grad=True) for one in arrays]


def unit(maps: Array) -> Array:
    flat = maps.reshape(len(maps), -1)
    norms = np.sqrt((flat**2).sum(axis=1, keepdims=True))
    return np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)


def halved(maps: Array) -> Array:
    count, height, width = maps.shape
    return maps.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def sensitive(features: Array, sensitivities: Array) -> Array:
    return np.maximum((features * sensitivities[:, :, None, None]).sum(axis=1), 0)


def test_equally_weighted_maps() -> None:
    ours, theirs = draw(3, 4, 5, 6, seed=1), draw(3, 7, 10, 12, seed=2)
    expected = unit((ours**2).mean(axis=1)) - unit(halved((theirs**2).mean(axis=1)))
    loss = ewa_loss(*tensors(ours, theirs))
    assert loss.item() == pytest.approx((expected**2).mean(), rel=1e-5)


def test_sensitivity_weighted_maps() -> None:
    ours, theirs = draw(3, 4, 5, 6, seed=1), draw(3, 7, 10, 12, seed=2)
    a, b = draw(3, 4, seed=3), draw(3, 7, seed=4)
    expected = unit(sensitive(ours, a)) - unit(halved(sensitive(theirs, b)))
    loss = swa_loss(*tensors(ours, theirs, a, b))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((expected**2).mean(), rel=1e-5)


def test_a_map_by_hand() -> None:
    # 2 * 3 - 1 * 2 = 4, 2 * 0 + 1 * 3 = 3, and -5 that the ReLU takes: (4, 3, 0) / 5.
    features = torch.tensor([[[[3.0, 0.0, 0.0]], [[2.0, -3.0, 5.0]]]])
    found = sensitivity_map(features, torch.tensor([[2.0, -1.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.6, 0.0]]))


@pytest.mark.parametrize("empty", ["student", "teacher", "both"])
def test_a_map_that_is_zero_everywhere(empty: str) -> None:
    """Costs the other's mean square, and leads nowhere."""
    ours, theirs, a, b = tensors(
        *(np.abs(draw(2, 3, *s, seed=1)) for s in ((4, 4),) * 2 + ((),) * 2)
    )
    own = -a if empty != "teacher" else a
    taught = -b if empty != "student" else b
    loss = swa_loss(ours, theirs, own, taught)
    assert loss.item() == pytest.approx(0 if empty == "both" else 1 / 16)
    loss.backward()
    assert ours.grad is not None
    assert ours.grad.isfinite().all()
    assert not ours.grad.any() or empty == "teacher"
    nothing = torch.zeros(2, 3, 4, 4, requires_grad=True)
    ewa_loss(nothing, theirs.detach()).backward()
    assert nothing.grad is not None
    assert not nothing.grad.any()


def test_channels_left_out() -> None:
    """Of the map, not of the sensitivities: the same in all images, drawn anew."""
    ours, theirs = draw(3, 4, 5, 6, seed=1), draw(3, 10, 5, 6, seed=2)
    a, b = draw(3, 4, seed=3), draw(3, 10, seed=4)
    torch.manual_seed(0)
    kept, again = kept_channels(10, 0.37, CPU), kept_channels(10, 0.37, CPU)
    assert int(kept.sum()) == int(again.sum()) == 7
    assert not torch.equal(kept, again)
    torch.manual_seed(0)
    assert torch.equal(kept_channels(10, 0.37, CPU), kept)
    theirs[:, ~kept.numpy()] = 0
    expected = swa_loss(*tensors(ours, theirs, a, b))
    theirs[:, ~kept.numpy()] = 1
    torch.testing.assert_close(sswa_loss(*tensors(ours, theirs, a, b), kept), expected)
    assert kept_channels(512, 0.1, CPU).sum() == 512 - 51
    assert kept_channels(512, 0.3, CPU).sum() == 512 - 153


def by_autograd(outputs: Outputs, classes: Tensor, stage: int) -> Tensor:
    """The unit map of a stage, with a graph."""
    logits = outputs.logits.gather(1, classes[:, None]).sum()
    (slope,) = torch.autograd.grad(logits, outputs.stages[stage], create_graph=True)
    a = slope.sum((2, 3), keepdim=True)
    maps = (a * outputs.stages[stage]).sum(1).relu().flatten(1)
    return F.normalize(maps, dim=1)


@pytest.mark.parametrize(("name", "size"), LINEAR)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_closed_form_is_autograds(name: str, size: int, channels_last: bool) -> None:
    """The loss and the gradient of every weight of the student."""
    torch.manual_seed(0)
    shape = (3, size, size)
    teacher, student = (create_model(name, 10, shape) for _ in range(2))
    if channels_last:
        student = student.to(memory_format=torch.channels_last)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    images, weights = torch.randn(6, *shape), [*student.parameters()]
    given = output_shapes(student, shape)
    term = SWA(SWAConfig(weight=1.0), given, given)
    assert term.student_needs == {CLASS_WEIGHTS}, "no second backward pass"
    assert term.needs == {"logits", "stages"}, "the teacher needs no graph"
    term.attach(teacher, torch.arange(6), torch.arange(6))
    teacher.eval().requires_grad_(False)
    with torch.no_grad():
        taught: Outputs = teacher(images)
    classes = taught.logits.argmax(1)
    said = with_features(student, images, term.student_needs, None, learning=True)
    loss = term(said, taught, Batch(classes, classes, 0.0, 0.0))
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    theirs = by_autograd(teacher(images.clone().requires_grad_()), classes, -1)
    expected = (by_autograd(said, classes, -1) - theirs.detach()).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    wanted = torch.autograd.grad(expected, weights, allow_unused=True)
    largest = max(float(one.abs().max()) for one in wanted if one is not None)
    for ours, others in zip(gradients, wanted, strict=True):
        if ours is not None and others is not None:
            torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-5 * largest + 1e-6)


@pytest.mark.parametrize(
    ("name", "size"), [("timm:mobilenetv3_small_050", 64), ("torchvision:convnext_tiny", 64)]
)
def test_no_closed_form_where_more_is_between(name: str, size: int) -> None:
    shapes = output_shapes(create_model(name, 10, (3, size, size)), (3, size, size))
    assert not shapes.pooled
    assert not shapes.flattened


Start = Callable[..., Training]


@pytest.fixture
def start(digits: Dataset, quick: Callable[..., TrialConfig], digits_teacher: Any) -> Start:
    def make(method: str, steps: tuple = (), **changes: Any) -> Training:
        config = quick(method=method, teacher="resnet8", lr=0.01, **changes)
        return Training(config, digits, config.student, digits_teacher.load(), CPU, steps)

    return make


def seen_in_a_step(
    training: Training, name: str, look: Callable[[Outputs, Outputs], Any] = lambda *_: None
) -> tuple[Outputs, Outputs, Tensor, Any]:
    """What the term read, its loss, and what somebody else finds before the graph is gone."""
    term, seen = training.method.terms[name], []
    forward = term.forward

    def told(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        loss: Tensor = forward(student, teacher, batch)
        seen.append((student, teacher, loss, look(student, teacher)))
        return loss

    term.forward = told  # type: ignore[method-assign]
    training.learner.train()
    (feed,) = training.stream(0, [training.stream.train_indices[:16]])
    assert training.learner.step(feed, 0.0).isfinite().all()
    return seen[0]


@pytest.mark.parametrize("method", ["swa", "kd+swa+mixup"])
def test_earlier_stages_in_a_training(start: Start, method: str) -> None:
    """Both networks at the class that the teacher holds for the likeliest, BatchNorm as it is."""
    training = start(method, **{"swa.stages": "0", "swa.weight": 1.0})

    def look(student: Outputs, teacher: Outputs) -> Tensor:
        ours = by_autograd(student, teacher.logits.argmax(1), 0)
        a = teacher.features["stage_gradient:0"].sum((2, 3), keepdim=True)
        theirs = F.normalize((a * teacher.stages[0]).sum(1).relu().flatten(1), dim=1)
        return (ours - theirs).square().mean().detach()

    student, teacher, loss, wanted = seen_in_a_step(training, "swa", look)
    for said, learns in ((student, True), (teacher, False)):
        assert said.features.keys() == {"stage_gradient:0"}
        assert said.features["stage_gradient:0"].requires_grad == learns
    assert not torch.equal(student.logits.argmax(1), teacher.logits.argmax(1))
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("step", "amount"), [(Prune, 2.0), (Sparsify, 0.5)])
def test_beside_a_step_that_changes_the_student(start: Start, step: Any, amount: float) -> None:
    changing = step(step.Config(amount=amount, begin=0.0, end=0.0))
    training = start("kd+swa", (changing,))
    wide = training.student.classifier.in_features
    take_steps(training.learner, 0)
    student, _, loss, _ = seen_in_a_step(training, "swa")
    weights = student.features[CLASS_WEIGHTS]
    assert weights.shape[1] == training.student.classifier.in_features
    assert (weights.shape[1] < wide) == (step is Prune)
    assert loss > 0


def test_quantised_weights_are_those_of_the_classifier() -> None:
    network = create_model("resnet8", 10, (3, 32, 32))
    network.classifier.__class__ = FakeQuantisedLinear
    layer: Any = network.classifier
    layer.weight_bits, layer.input_bits, layer.input_step = 2, None, None
    layer.weight_step = torch.nn.Parameter(torch.tensor([0.05]))
    found = with_features(network, torch.randn(2, 3, 32, 32), {CLASS_WEIGHTS}, None, learning=False)
    assert len(found.features[CLASS_WEIGHTS].unique()) <= 4
    basis = torch.eye(layer.in_features)
    logits = layer(basis) - layer(torch.zeros(1, layer.in_features))
    torch.testing.assert_close(found.features[CLASS_WEIGHTS].t(), logits, rtol=0, atol=1e-6)


def test_in_bf16(start: Start) -> None:
    exact = seen_in_a_step(start("swa"), "swa")[2]
    low = seen_in_a_step(start("swa", precision="bf16"), "swa")[2]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.1, atol=0.0)


def test_no_such_pair() -> None:
    shapes = output_shapes(create_model("resnet8", 10, (3, 32, 32)), (3, 32, 32))
    for name in ("ewa", "swa", "sswa"):
        with pytest.raises(UserError, match=f"{name}.stages: expected all, last, or some"):
            Method(name, resolve_settings(name, {f"{name}.stages": "7"}), shapes, shapes)
