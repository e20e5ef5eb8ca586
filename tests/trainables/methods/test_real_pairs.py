"""Every term between networks of the zoo: where its gradient goes, and that it teaches."""

import functools

import pytest
import torch
from every_term import CLASSES, IMAGE, build, loss_of, tensors
from torch import Tensor

from trainables.methods.term import Term
from trainables.models.features import STAGE_GRADIENT, with_features
from trainables.models.outputs import Network, Outputs
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes

PAIRS = [  # teacher, student: with equal and different numbers, sizes and widths of stages
    ("wrn_16_1", "resnet8"),
    ("wrn_10_1", "mobilenetv2_s2_x0.5"),
    ("vgg11_x0.25", "resnet8"),
    ("resnet8", "vgg11_x0.25"),
    ("resnet8", "mobilenetv2-minus15_x0.25"),
]


class Pair:
    """A teacher and a student of the zoo, and a fixed batch of images ``image``."""

    def __init__(
        self, teacher: str, student: str, image: tuple[int, int, int] = IMAGE, batch: int = 4
    ) -> None:
        torch.manual_seed(0)
        self.teacher = create_model(teacher, CLASSES, image).eval().requires_grad_(False)
        self.student = create_model(student, CLASSES, image)
        self.images = torch.randn(batch, *image)
        self.target = torch.arange(batch) % CLASSES
        self.shapes = output_shapes(self.student, image), output_shapes(self.teacher, image)
        everything = self.shapes[1].features
        slopes = [key for key in everything if key.startswith(STAGE_GRADIENT)]
        self.taught = with_features(self.teacher, self.images, slopes, None, learning=False)

    def term(self, name: str, seed: int = 1) -> Term:
        """The term with its defaults, its adaptors drawn from ``seed``."""
        torch.manual_seed(seed)
        return build(name, *self.shapes, network=self.teacher)


def said(networks: Pair, term: Term) -> Outputs:
    """What the student says to the images, as a learner asks it."""
    chosen = networks.taught.logits.argmax(1)
    return with_features(
        networks.student, networks.images, term.student_needs, None, learning=True, chosen=chosen
    )


@functools.cache
def pair(teacher: str, student: str) -> Pair:
    return Pair(teacher, student)


def weights_of(network: Network) -> list[Tensor]:
    return [value.clone() for value in network.state_dict().values()]


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_real_pairs_and_where_the_gradient_goes(name: str, teacher: str, student: str) -> None:
    networks = pair(teacher, student)
    term = networks.term(name).train()
    networks.student.train().zero_grad()
    outputs = said(networks, term)
    for part in tensors(outputs):
        part.retain_grad()
    loss = loss_of(term, outputs, networks.taught, networks.target)
    loss.backward()

    assert loss.isfinite()
    gradients = [part.grad for part in tensors(outputs) if part.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    first = next(networks.student.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    silent = [
        key
        for key, weight in term.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.abs().sum() > 0)
    ]
    assert silent == []
    assert all(weight.grad is None for weight in networks.teacher.parameters())


@pytest.mark.parametrize(
    ("teacher", "student", "pixels", "steps"),
    # Of 16 pixels a MobileNetV2 leaves one, whose mean over a batch of four BatchNorm subtracts.
    [(*PAIRS[0], 16, 20), pytest.param(*PAIRS[1], 32, 40, marks=pytest.mark.soak)],
)
def test_its_loss_falls_in_training(
    name: str, teacher: str, student: str, pixels: int, steps: int
) -> None:
    networks = Pair(teacher, student, (3, pixels, pixels))
    term = networks.term(name).train()
    networks.student.train()
    before = weights_of(networks.teacher)
    optimizer = torch.optim.Adam([*networks.student.parameters(), *term.parameters()], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = loss_of(term, said(networks, term), networks.taught, networks.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0]
    after = weights_of(networks.teacher)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
