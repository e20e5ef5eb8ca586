"""Any pair works with any term: pairs of the literature, at the size of CIFAR, all that are
registered. A new term is covered by its line in the registry."""

import copy
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from trainables.methods.registry import term_class, term_names
from trainables.methods.term import Batch, Term
from trainables.models.features import with_features
from trainables.models.outputs import Network, Outputs
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes

IMAGE, CLASSES = (3, 32, 32), 10
TERMS = [name for name in term_names() if issubclass(term_class(name), Term)]
PAIRS = {  # teacher, student -> learning rate
    ("wrn_40_2", "wrn_16_2"): 2e-3,
    ("resnet18", "mobilenetv2"): 5e-4,
    ("resnet56", "resnet8"): 2e-3,
    ("resnet50", "resnet18"): 5e-4,
    ("vgg13", "mobilenetv2"): 5e-4,
}
STEPS = 30
BATCH = 4

NOT_ZERO = {  # where the student is the teacher
    "crd": "tells an image from others, and its projections are trained",
    "dml": "has no teacher, and its peers begin elsewhere",
    "fitnet": "its regressor is trained",
    "reviewkd": "its fusion of stages is trained",
    "srd": "its adaptor is trained",
    "srd_dist": "its adaptor is trained",
    "srd_kl": "its adaptor is trained",
    "srd_pmse": "its adaptor is trained",
    "sswa": "leaves out some of the teacher's channels",
    "ttm": "softens the teacher alone",
    "wttm": "softens the teacher alone",
}


class Lesson(NamedTuple):
    """A fixed batch and what a teacher says to it."""

    teacher: Network
    batch: Batch
    taught: Outputs


@functools.cache
def lesson(teacher: str) -> Lesson:
    torch.manual_seed(0)
    network = create_model(teacher, CLASSES, IMAGE).requires_grad_(False)
    images = torch.randn(BATCH, *IMAGE)
    # Running statistics of the batch: without them the features of deep networks explode.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    network.eval()
    asked = [key for key in output_shapes(network, IMAGE).features if "stage_gradient" in key]
    target = torch.arange(BATCH)
    peers = {"1": create_model("resnet8", CLASSES, IMAGE).requires_grad_(False)(images)}
    batch = Batch(target, target, epoch=30.0, progress=0.5, inputs=images, peers=peers)
    return Lesson(network, batch, with_features(network, images, asked, None, learning=False))


def said(student: Network, term: Term, given: Lesson, *, learning: bool) -> Outputs:
    """What a student says to the batch, as a learner asks it."""
    images, chosen = given.batch.inputs, given.taught.logits.argmax(1)
    assert images is not None
    return with_features(
        student, images, term.student_needs, None, learning=learning, chosen=chosen
    )


def build(name: str, given: Lesson, student: Network) -> Term:
    kind = term_class(name)
    shapes = [output_shapes(network, IMAGE) for network in (student, given.teacher)]
    term = kind(kind.Config(), *shapes)
    term.attach(given.teacher, labels=torch.arange(60) % CLASSES, indices=torch.arange(50))
    return term


class Pupil:
    """A student of the lesson under one term."""

    def __init__(self, name: str, teacher: str, student: str) -> None:
        self.given = lesson(teacher)
        torch.manual_seed(1)
        self.network = create_model(student, CLASSES, IMAGE).train()
        self.term = build(name, self.given, self.network).train()

    def loss(self) -> Tensor:
        given = self.given
        outputs = said(self.network, self.term, given, learning=True)
        loss: Tensor = self.term(outputs, given.taught, given.batch)
        return loss


def by_turns() -> Iterator[Any]:
    """Every term with every pair; all but one pair of each term, by turns, are `make soak`'s."""
    for row, name in enumerate(TERMS):
        for column, pair in enumerate(PAIRS):
            here = row % len(PAIRS) == column
            yield pytest.param(name, *pair, marks=[] if here else pytest.mark.soak)


@pytest.mark.soak  # on smaller images, test_real_pairs.py trains every term
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_a_student_learns_what_the_term_asks(name: str, teacher: str, student: str) -> None:
    pupil = Pupil(name, teacher, student)
    weights = [*pupil.network.parameters(), *pupil.term.parameters()]
    optimizer = torch.optim.Adam(weights, lr=PAIRS[teacher, student])
    losses: list[float] = []
    for _ in range(STEPS):
        loss = pupil.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.tensor(losses).isfinite())
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "teacher", "student"), by_turns())
def test_a_first_step_reaches_the_student(name: str, teacher: str, student: str) -> None:
    pupil = Pupil(name, teacher, student)
    loss = pupil.loss()
    loss.backward()
    first = next(pupil.network.parameters())
    assert loss.isfinite()
    assert first.grad is not None
    assert first.grad.isfinite().all()
    assert first.grad.abs().sum() > 0


def loss_in_evaluation(name: str, given: Lesson, student: Network) -> float:
    with torch.no_grad():
        term = build(name, given, student).eval()
        torch.manual_seed(2)
        outputs = said(student, term, given, learning=False)
        loss: Tensor = term(outputs, given.taught, given.batch)
    return loss.item()


@pytest.mark.parametrize("name", TERMS)
def test_nothing_to_learn_from_oneself(name: str) -> None:
    given = lesson("wrn_16_2")
    same = copy.deepcopy(given.teacher)
    loss = loss_in_evaluation(name, given, same)
    if name in NOT_ZERO:
        assert loss > 1e-3, f"'{name}' has no place in NOT_ZERO"
    else:
        assert abs(loss) < 1e-5
        assert loss_in_evaluation(name, given, lesson("wrn_10_2").teacher) > 1e-3
