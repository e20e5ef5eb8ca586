"""How long a training step of a method takes beside a step of the plain student, measured here."""

import statistics
import time
from dataclasses import dataclass

import torch

from trainables.cost import step, training_of
from trainables.methods.registry import PLAIN
from trainables.training import Training

_BUDGET_SECONDS = 4.0
_LEAST_STEPS = 5


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


def measure(method: str) -> Times:
    """Times steps of a method and of the plain student in turn, for a few seconds.

    On the GPU where there is one.

    Args:
        method: as for `cost.count`.
    """
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    trainings = [training_of(name, device) for name in (method, PLAIN)]
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


def _seconds(training: Training) -> float:
    _synchronise(training.device)
    start = time.perf_counter()
    step(training)
    _synchronise(training.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
