"""What a training step of a method costs beside a step of the plain student.

Both are steps of a real `Training` on random images, for one pair of networks: counted without
computing anything, or timed on this machine.
"""

import functools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.compression.measure import count_macs
from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.engine.remembering import TABLED
from trainables.methods.registry import PLAIN
from trainables.models.registry import create_model
from trainables.models.weights import Card
from trainables.teachers.teacher import Teacher
from trainables.training import Training

TEACHER, STUDENT = "wrn_40_2", "wrn_16_2"
IMAGE, CLASSES, BATCH = (3, 32, 32), 100, 64
SETTING = (
    f"{TEACHER} -> {STUDENT}, images {'x'.join(map(str, IMAGE))}, {CLASSES} classes, batch {BATCH}"
)
"""What the numbers hold for, in words."""

_IMAGES = 50_000  # some terms keep or draw from the whole training set: as many as CIFAR has
_DRAWN = 500
_META, _CPU = torch.device("meta"), torch.device("cpu")
_BUDGET_SECONDS = 4.0
_LEAST_STEPS = 5


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Medians over steps in turn.

    Attributes:
        method_ms, student_ms: milliseconds of a step, with a live teacher, in fp32.
        ratios: least and greatest of a method's step over the student's next one: how far the
            machine was at rest.
        steps: of each of the two.
        device: in words.
        threads: of torch on the CPU.
    """

    method_ms: float
    student_ms: float
    ratios: tuple[float, float]
    steps: int
    device: str
    threads: int


def count(method: str) -> Cost:
    """Counts the floating-point operations of a step.

    Those of convolutions and matrix products, forward and backward, as is usual in the field; a
    loss of element-wise operations counts nothing, and `measure` shows whether it takes time.

    Args:
        method: ``+``-joined, at its default settings.

    Raises:
        UserError: there is no such method.
    """
    training, flops = _counted(method)
    made = training.method
    known = flops
    if training.teacher is not None:
        known -= _teacher_flops()
    answers = made.needs <= TABLED and (made.plain_teacher or not made.needs)
    plain = _plain_flops()
    return Cost(
        needs=made.needs,
        ce_share=made.ce_weight,
        live=flops / plain,
        looked_up=known / plain if answers else None,
    )


def measure(method: str) -> Times:
    """Times steps of a method and of the plain student in turn, for a few seconds.

    On the GPU where there is one.

    Args:
        method: as for `count`.
    """
    device = torch.device("cuda") if torch.cuda.is_available() else _CPU
    trainings = [_training(name, device) for name in (method, PLAIN)]
    for training in trainings:
        _seconds(training)  # the first one pays for start-up
    times: list[list[float]] = [[], []]
    while len(times[0]) < _LEAST_STEPS or sum(map(sum, times)) < _BUDGET_SECONDS:
        for training, taken in zip(trainings, times, strict=True):
            taken.append(_seconds(training))
    ours, plain = (1000 * statistics.median(taken) for taken in times)
    ratios = [one / other for one, other in zip(*times, strict=True)]
    return Times(
        method_ms=ours,
        student_ms=plain,
        ratios=(min(ratios), max(ratios)),
        steps=len(times[0]),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        threads=torch.get_num_threads(),
    )


@functools.cache
def _plain_flops() -> int:
    return _counted(PLAIN)[1]


@functools.cache
def _teacher_flops() -> int:
    return 2 * BATCH * count_macs(_teacher(_META).network, IMAGE)


def _counted(method: str) -> tuple[Training, int]:
    """A training and the FLOPs of a step of it, without computing the step where that is possible.

    Some operations know no tensors without values, for example draws of a distribution.
    """
    try:
        with _one_thread():
            return _counted_on(method, _META)
    except RuntimeError:
        return _counted_on(method, _CPU)


@contextmanager
def _one_thread() -> Iterator[None]:
    """For networks that see one image: on a busy machine threads that wait for one another cost
    ten times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _counted_on(method: str, device: torch.device) -> tuple[Training, int]:
    training = _training(method, device)
    with FlopCounterMode(display=False) as counter:
        _step(training)
    return training, counter.get_total_flops()


def _seconds(training: Training) -> float:
    _synchronise(training.device)
    start = time.perf_counter()
    _step(training)
    _synchronise(training.device)
    return time.perf_counter() - start


def _step(training: Training) -> None:
    """A step in the middle of the training."""
    training.student.train()
    training.method.train()
    (feed,) = training.feeder(0, [torch.arange(BATCH)])
    training.step(feed, training.config.epochs / 2)


def _training(method: str, device: torch.device) -> Training:
    config = TrialConfig.from_mapping(
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
    return Training(config, _dataset(), STUDENT, _teacher(device), device)


@functools.cache
def _teacher(device: torch.device) -> Teacher:
    with device:
        network = create_model(TEACHER, CLASSES, IMAGE)
    data = _dataset()
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
    return Teacher(network, card, device)


@functools.cache
def _dataset() -> Dataset:
    """As large as CIFAR: few random images, many times."""
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(256, (_DRAWN, *IMAGE), dtype=torch.uint8, generator=draw)
    images = Images(drawn.repeat(_IMAGES // _DRAWN, 1, 1, 1), torch.arange(_IMAGES) % CLASSES)
    half = (0.5,) * IMAGE[0]
    content = Content(tuple(map(str, range(CLASSES))), images, images, "", "", half, half)
    return content.dataset("random", crop_padding=4, flip=True)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
