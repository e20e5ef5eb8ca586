"""Terms of another package that read inner modules and gradients of the input, in a training."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from foreign import install, present
from torch import Tensor

from orchestrator.cli import main
from trainables.config import TrialConfig
from trainables.cost import count
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.errors import TeacherBroken, UserError
from trainables.methods.term import Batch, class_shares
from trainables.models.features import INPUT_GRADIENT
from trainables.models.outputs import Outputs
from trainables.training import Training

THEIRS = '''
"""Theirs: terms that ask for more than the outputs."""

from dataclasses import dataclass

from torch import nn

from trainables.methods.dml import DML, DMLConfig
from trainables.methods.term import Term
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerConfig:
    weight: float = setting(1.0, "of the distance", at_least=0)
    student: str = setting("group1.0.conv1", "a module of the student")
    teacher: str = setting("conv1", "a module of the teacher")


class Inner(Term):
    needs = frozenset({"module:conv1"})
    Config = InnerConfig

    def __init__(self, config, student, teacher):
        super().__init__(config, student, teacher)
        self.ours, self.theirs = f"module:{config.student}", f"module:{config.teacher}"
        self.student_needs, self.needs = frozenset({self.ours}), frozenset({self.theirs})
        width = [shapes.features.get(key, (1,))[0] for shapes, key in
                 ((student, self.ours), (teacher, self.theirs))]
        self.adaptor = nn.Conv2d(*width, 1)

    def forward(self, student, teacher, batch):
        ours, theirs = student.features[self.ours], teacher.features[self.theirs]
        return self.config.weight * (self.adaptor(ours) - theirs).float().square().mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class SlopesConfig:
    weight: float = setting(1.0, "of the distance", at_least=0)


class Slopes(Term):
    needs = student_needs = frozenset({"input_gradient"})
    Config = SlopesConfig

    def forward(self, student, teacher, batch):
        ours, theirs = (said.features["input_gradient"] for said in (student, teacher))
        return self.config.weight * (ours - theirs).square().sum((1, 2, 3)).mean()


class Flat(DML):
    """Peers that also learn to have one another's slopes."""

    student_needs = frozenset({"input_gradient"})
    seen = []

    def peer_loss(self, peer, others, batch):
        self.seen.append((peer, others))
        ours = peer.features["input_gradient"]
        theirs = others["student"].features["input_gradient"]
        return super().peer_loss(peer, others, batch) + (ours - theirs).square().sum()
'''
POINTS = """
[kdsweep.terms]
inner = inner_terms:Inner
slopes = inner_terms:Slopes
flat = inner_terms:Flat
"""
CPU = torch.device("cpu")
Start = Callable[..., Training]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path) -> Iterator[None]:
    with present(install(tmp_path / "site", "inner_terms", THEIRS, POINTS), "inner_terms"):
        yield


@pytest.fixture
def start(digits: Dataset, quick: Callable[..., TrialConfig], digits_teacher: Any) -> Start:
    def make(method: str, **changes: Any) -> Training:
        config = quick(method=method, teacher="resnet8", lr=0.01, **changes)
        return Training(config, digits, config.student, digits_teacher.load(), CPU)

    return make


class Step:
    """The first step of a training, with what its term read and what the networks saw."""

    def __init__(self, training: Training, name: str, epoch: float = 0.0) -> None:
        training.learner.train()
        term = training.method.terms[name]
        self.before = copy.deepcopy(training.student)  # in training mode, as it will be asked
        teacher = training.stream.teachers["teacher"]
        assert teacher
        forward = term.forward

        def told(student: Outputs, taught: Outputs, batch: Batch) -> Tensor:
            self.student, self.teacher, self.batch = student, taught, batch
            self.loss: Tensor = forward(student, taught, batch)
            return self.loss

        term.forward = told  # type: ignore[method-assign]
        (feed,) = training.stream(0, [training.stream.train_indices[:16]])
        training.learner.step(feed, epoch)
        self.their_network = teacher.network
        images = to_float(feed.views, teacher.card.mean, teacher.card.std)
        self.their_images = training.method.images(images, self.batch)


def slope(network: torch.nn.Module, images: Tensor, picked: Callable[[Tensor], Tensor]) -> Tensor:
    """Of the picked logits, with a graph."""
    images = images.detach().clone().requires_grad_()
    return torch.autograd.grad(picked(network(images).logits), images, create_graph=True)[0]


def hooked(network: torch.nn.Module, images: Tensor, name: str) -> Tensor:
    seen = []
    handle = network.get_submodule(name).register_forward_hook(lambda *of: seen.append(of[2]))
    network(images)
    handle.remove()
    return seen[0]


def test_inner_modules_of_both_networks(start: Start) -> None:
    step = Step(start("kd+inner"), "inner")
    assert step.batch.inputs is not None
    ours = hooked(step.before, step.batch.inputs, "group1.0.conv1")
    assert torch.equal(step.student.features["module:group1.0.conv1"], ours)
    theirs = hooked(step.their_network, step.their_images, "conv1")
    assert torch.equal(step.teacher.features["module:conv1"], theirs)
    assert not step.teacher.features["module:conv1"].requires_grad


@pytest.mark.parametrize("cache", ["off", "float32"])
def test_slopes_and_what_they_teach(start: Start, cache: str) -> None:
    """The loss and the student's gradient, as autograd alone has them."""
    training = start("slopes", teacher_cache=cache, flip=True)
    step = Step(training, "slopes")
    assert training.learner.lessons["teacher"].answers is None  # a table knows no slopes
    assert training.precision == "fp32"
    assert step.batch.inputs is not None

    def true(logits: Tensor) -> Tensor:
        return logits.gather(1, step.batch.target.unsqueeze(1)).sum()

    theirs = slope(step.their_network, step.their_images, true).detach()
    torch.testing.assert_close(step.teacher.features[INPUT_GRADIENT], theirs, rtol=1e-6, atol=1e-7)
    assert not step.teacher.features[INPUT_GRADIENT].requires_grad
    assert not any(weight.requires_grad for weight in step.their_network.parameters())
    twin = copy.deepcopy(step.before)  # its statistics move with the pass
    ours = slope(twin, step.batch.inputs, true)
    loss = (ours - theirs).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(step.loss, loss, rtol=1e-6, atol=1e-7)
    whole = loss + F.cross_entropy(twin(step.batch.inputs).logits, step.batch.target)
    weights = [*twin.parameters()]
    for weight, wanted in zip(
        training.student.parameters(), torch.autograd.grad(whole, weights), strict=True
    ):
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-5, atol=1e-6)


def test_mixed_labels_weigh_their_logits(start: Start) -> None:
    step = Step(start("slopes+mixup"), "slopes")
    mix = step.batch.mix
    assert mix is not None

    def both(logits: Tensor) -> Tensor:
        own = logits.gather(1, step.batch.target.unsqueeze(1)).sum()
        other = logits.gather(1, step.batch.target[mix.partner].unsqueeze(1)).sum()
        return mix.share * own + (1 - mix.share) * other

    theirs = slope(step.their_network, step.their_images, both)
    torch.testing.assert_close(step.teacher.features[INPUT_GRADIENT], theirs, rtol=1e-5, atol=1e-7)


def test_images_of_several_classes_count_all_of_them() -> None:
    """And a class of which nobody knows, 255, none."""
    one = class_shares(torch.tensor([2, 0]), 3)
    assert one.tolist() == [[0, 0, 1], [1, 0, 0]]
    several = class_shares(torch.tensor([[1, 0, 1], [255, 1, 0]], dtype=torch.uint8), 3)
    assert several.tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("method", ["kd+inner", "slopes+mixup"])
def test_a_step_never_waits(
    start: Start, no_waiting: Callable[[], AbstractContextManager[object]], method: str
) -> None:
    training = start(method)
    training.learner.train()
    first, second = training.stream(0, training.stream.train_indices[:16].split(8))
    training.learner.step(first, 0.0)  # what is made once may wait
    with no_waiting():
        losses = training.learner.step(second, 0.1)
    assert losses.isfinite().all()


def test_slopes_in_bf16(start: Start) -> None:
    exact = Step(start("slopes"), "slopes")
    step = Step(start("slopes", precision="bf16"), "slopes")
    for near, far in ((step.student, exact.student), (step.teacher, exact.teacher)):
        one, other = near.features[INPUT_GRADIENT], far.features[INPUT_GRADIENT]
        assert one.dtype == torch.float32
        assert not torch.equal(one, other)
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.95


@pytest.mark.parametrize("method", ["kd+inner", "slopes"])
def test_an_interruption_changes_nothing(start: Start, method: str) -> None:
    undisturbed, interrupted = start(method, epochs=2), start(method, epochs=2)
    undisturbed.check_teacher()
    interrupted.run_epoch()
    continued = start(method, epochs=2)
    continued.load_state_dict(copy.deepcopy(interrupted.state_dict()))
    last = continued.run_epoch()
    undisturbed.run_epoch()
    assert undisturbed.run_epoch()["term_losses"] == last["term_losses"]
    assert continued.test() == undisturbed.test()


def test_peers_are_asked_as_well(start: Start) -> None:
    """In turn: the student's slopes are computed anew after its update, and teach nobody there."""
    training = start("flat")
    (feed,) = training.stream(0, [training.stream.train_indices[:16]])
    training.learner.train()
    seen = training.method.terms["flat"].seen
    training.learner.step(feed, 0.0)
    ((peer, others),) = seen
    assert peer.features[INPUT_GRADIENT].requires_grad
    assert not others["student"].features[INPUT_GRADIENT].requires_grad
    twin = copy.deepcopy(training.student)
    images = to_float(feed.views, training.dataset.mean, training.dataset.std)
    anew = slope(
        twin, images, lambda z: z.gather(1, training.stream.labels[feed.there, None]).sum()
    )
    torch.testing.assert_close(others["student"].features[INPUT_GRADIENT], anew.detach())
    assert int(training.student.state_dict()["bn.num_batches_tracked"]) == 1


def test_a_network_without_the_module_is_refused(start: Start) -> None:
    with pytest.raises(UserError) as caught:
        start("inner", **{"inner.teacher": "layer2.0.conv9"})
    text = "method 'inner': unknown output of the teacher 'module:layer2.0.conv9'; did you mean "
    assert str(caught.value).startswith(text + "module:layer2.0.conv")
    with pytest.raises(UserError, match="unknown output of the student 'module:nowhere'"):
        start("inner", **{"inner.student": "nowhere"})


def test_a_study_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {
        "dataset": "digits",
        "teacher": {"model": "resnet8"},
        "fixed": {"student": "wrn_10_0.5", "method": "inner", "inner.student": "group9.conv"},
        "dimensions": {"lr": [0.1]},
        "trials": 1,
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    assert main(["run", str(tmp_path / "s.yaml"), "--results", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "unknown output of the student 'module:group9.conv'; did you mean module:group" in told


def test_mixed_logits_are_not_enough(start: Start) -> None:
    with pytest.raises(UserError, match="terms that read logits only; this one reads input_grad"):
        start("slopes+mixup", teacher_mix="logits")


def test_a_student_that_is_read_is_not_compiled(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trainings = [start("kd+inner", compile=True, epochs=1) for _ in range(2)]
    said = [record.getMessage() for record in caplog.records if "compiled" in record.getMessage()]
    assert said == ["a student of which module:group1.0.conv1 is read cannot be compiled"]
    assert trainings[0].learner.networks.forward is trainings[0].student


def test_a_teacher_without_slopes_is_broken(start: Start) -> None:
    training = start("slopes")
    lesson = training.learner.lessons["teacher"]
    assert lesson
    lesson.teacher = copy.deepcopy(lesson.teacher)  # others have the same one
    with torch.no_grad():
        lesson.teacher.network.conv1.weight[0] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(TeacherBroken, match=r"\(input_gradient\)"):
        training.check_teacher()


def test_what_they_cost() -> None:
    """A step of slopes goes through both networks more often than one of logits."""
    logits, slopes, inner = count("kd"), count("slopes"), count("inner")
    assert slopes.looked_up is inner.looked_up is None
    assert slopes.live > logits.live + 1
    assert logits.live < inner.live < slopes.live
