"""What a training step of a method costs beside a step of the plain student, in operations.

Both are steps of a `Training` on random images, for one pair of networks, counted without
computing anything. What all methods have in common, the passes through the two networks, is counted
once. `trainables.timing` takes the time of such steps.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.methods import term
from trainables.methods.method import Method
from trainables.methods.typical import BATCH, CLASSES, IMAGE, STUDENT, TEACHER
from trainables.models.features import FIELDS
from trainables.models.flops import FlopCounter
from trainables.models.observe import observe
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes, shortcuts
from trainables.models.weights import Card
from trainables.teachers.maps import StoredMaps
from trainables.teachers.remembering import TABLED
from trainables.teachers.teacher import Teacher
from trainables.training import Training
from trainables.worker import kept

_IMAGES = 50_000  # some terms keep or draw from the whole training set: as many as CIFAR has
_DRAWN = 500
_HALF = (0.5,) * IMAGE[0]
_META, _CPU = torch.device("meta"), torch.device("cpu")
_Counted = TypeVar("_Counted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One method against the plain student.

    Attributes:
        needs: what the method reads of the teacher.
        ce_share: what is left of the cross-entropy.
        live: FLOPs of a step, the teacher's forward pass included as far as the method needs it,
            over those of the plain student's.
        looked_up: the same where the teacher's answers are not computed but known; None where
            they would be whole feature maps, or answers to images that are new at every step.
    """

    needs: frozenset[str]
    ce_share: float
    live: float
    looked_up: float | None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Where something is computed after all, it is little, and on a busy machine threads that wait
    for one another cost ten times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def count(method: str) -> Cost:
    """Counts the floating-point operations of a step.

    Those of convolutions and matrix products, forward and backward, as is usual in the field; a
    loss of element-wise operations counts nothing; `timing.measure` shows whether it takes time.

    Args:
        method: ``+``-joined, at its default settings.

    Raises:
        UserError: there is no such method.
    """
    made, own = _counted(_own_flops, method)
    plain, teaching = _student_flops(), _teacher_flops(made.depth()) if made.needs else 0
    # Where a step is not the plain student's with something added, it is counted as a whole.
    flops = _counted(_step_flops, method)[1] if own is None else plain + teaching + own
    answers = made.needs <= TABLED and (made.plain_teacher or not made.needs)
    return Cost(
        needs=made.needs,
        ce_share=made.ce_weight,
        live=flops / plain,
        looked_up=(flops - teaching) / plain if answers else None,
    )


@functools.cache
def _student_flops() -> int:
    """Of the student's passes over a batch, forward and backward: the plain student's step."""
    images = torch.zeros(BATCH, *IMAGE, device=_META)
    with _counting(_META) as counter:
        _network(STUDENT, _META)(images).logits.sum().backward()
    return counter.flops


@functools.cache
def _teacher_flops(depth: int | None) -> int:
    """Of the teacher's pass over a batch, as far as it is read."""
    images = torch.zeros(BATCH, *IMAGE, device=_META)
    with torch.no_grad(), _counting(_META) as counter:
        _network(TEACHER, _META)(images, depth)
    return counter.flops


def _counted(count: Callable[[str, torch.device], _Counted], method: str) -> _Counted:
    """Counts without computing anything where that is possible.

    Some operations know no tensors without values, for example draws of a distribution.
    """
    try:
        return count(method, _META)
    except RuntimeError:
        return count(method, _CPU)


def _step_flops(method: str, device: torch.device) -> tuple[Method, int]:
    """A method, and the FLOPs of a whole step."""
    training = training_of(method, device)
    with _counting(device) as counter:
        step(training)
    return training.method, counter.flops


def _own_flops(method: str, device: torch.device) -> tuple[Method, int | None]:
    """A method, and the FLOPs that it adds to the passes of student and teacher.

    None where its loss does not reach all of the student, whose backward pass then is another
    one, or where it reads more than the outputs. This is `Learner.step` with the networks'
    outputs given; a test compares the sums.
    """
    config = _config(method)
    indices = torch.arange(_IMAGES)
    labels = indices % CLASSES
    with device:
        made = Method(config.method, config.terms, _shapes(STUDENT), _shapes(TEACHER))
        peers = {
            name: create_model(model or STUDENT, CLASSES, IMAGE).train()
            for name, model in made.peers.items()
        }
        images = torch.zeros(BATCH, *IMAGE)
        said = _outputs(_shapes(STUDENT), learning=True)
        taught = _outputs(_shapes(TEACHER), learning=False) if made.needs else None
    if made.needs - FIELDS or made.asked(term.STUDENT):
        return made, None
    if made.needs:
        teacher = _network(TEACHER, device).requires_grad_(False)
        made.attach(teacher, labels, indices)
    made.to(device).train()
    first = (labels[:BATCH].to(device), indices[:BATCH].to(device))
    batch = term.Batch(*first, config.epochs / 2, 0.5, normalisation=(_HALF, _HALF))
    if made.map_settings:
        batch = batch._replace(maps=_maps(device).of(first[1]))
    with _counting(device) as counter:
        batch = made.draw(batch)
        if taught is not None:
            if made.plain_teacher:
                taught = made.taught(taught, batch)
            else:
                made.images(images, batch)
        inputs = made.images(images, batch)
        outputs = {name: peer(inputs) for name, peer in peers.items()}
        batch = batch._replace(inputs=inputs, peers=outputs)
        made(said, taught, batch).sum().backward()
        outputs = {term.STUDENT: said} | outputs
        for before, name in zip((term.STUDENT, *peers), peers, strict=False):
            if made.takes_turns(name):
                network = peers[before] if before in peers else _network(STUDENT, device)
                outputs[before] = observe(network, inputs)
            made.peer_loss(name, outputs, batch).backward()
        made.after_step(batch)
    return made, None if said.logits.grad is None else counter.flops


def _outputs(shapes: Shapes, *, learning: bool) -> Outputs:
    """What a network says to a batch, as if it had been computed."""

    def blank(*shape: int) -> Tensor:
        return torch.zeros(BATCH, *shape, requires_grad=learning)

    return Outputs(
        blank(shapes.classes),
        blank(shapes.embedding),
        tuple(blank(*stage) for stage in shapes.stages),
        tuple(blank(*shortcut) for shortcut in shapes.shortcuts),
    )


@functools.cache
def _shapes(model: str) -> Shapes:
    return output_shapes(_network(model, _META), IMAGE)


@kept("networks of the count", entries=8)
def _network(model: str, device: torch.device) -> Network:
    with device:
        return create_model(model, CLASSES, IMAGE)


@contextmanager
def _counting(device: torch.device) -> Iterator[FlopCounter]:
    """Counts what happens on a device."""
    like = torch.empty(0, device=device)
    with _WithoutBatchNorm(), FlopCounter() as counter, shortcuts(like):
        yield counter


class _WithoutBatchNorm(TorchFunctionMode):
    """Passes through networks without BatchNorm, which counts nothing and takes half of the time
    that tensors without values take."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return args[0] if func is F.batch_norm else func(*args, **(kwargs or {}))


def step(training: Training) -> None:
    """A step in the middle of the training."""
    training.learner.train()
    (feed,) = training.stream(0, [torch.arange(BATCH)])
    training.learner.step(feed, training.config.epochs / 2)


def training_of(method: str, device: torch.device) -> Training:
    """A training of a method at its default settings; maps are drawn, since it is about steps."""
    teacher, maps = _teacher(device), _maps(device)
    return Training(_config(method), _dataset(device), STUDENT, teacher, device, maps=maps)


def _config(method: str) -> TrialConfig:
    return TrialConfig.from_mapping(
        {
            "student": STUDENT,
            "teacher": TEACHER,
            "method": method,
            "batch_size": BATCH,
            "lr": 0.001,
            "val_fraction": 0.0,
            "precision": "fp32",
            "teacher_cache": "off",
        }
    )


@kept("teachers of the count", entries=2)
def _teacher(device: torch.device) -> Teacher:
    data = _dataset(device)
    card = Card(
        name=TEACHER,
        model=TEACHER,
        dataset=data.name,
        data_fingerprint=data.fingerprint,
        classes=CLASSES,
        image_shape=IMAGE,
        mean=data.mean,
        std=data.std,
        test_acc=1 / CLASSES,
        params=0,
        macs=0,
        origin="untrained",
    )
    return Teacher(_network(TEACHER, device), card, device)


@kept("maps of the count", entries=2)
def _maps(device: torch.device) -> StoredMaps:
    """Of every image, drawn."""
    draw = torch.Generator().manual_seed(1)
    drawn = torch.rand(_DRAWN, *IMAGE[1:], generator=draw)
    return StoredMaps(drawn.to(device).repeat(_IMAGES // _DRAWN, 1, 1), {})


@kept("data of the count", entries=2)
def _dataset(device: torch.device) -> Dataset:
    """As large as CIFAR: few random images, many times; without values where none are computed."""
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(256, (_DRAWN, *IMAGE), dtype=torch.uint8, generator=draw)
    drawn = drawn.to(device) if device == _META else drawn
    images = Images(drawn.repeat(_IMAGES // _DRAWN, 1, 1, 1), torch.arange(_IMAGES) % CLASSES)
    content = Content(tuple(map(str, range(CLASSES))), images, images, "", "", _HALF, _HALF)
    return content.dataset("random", crop_padding=4, flip=True)
