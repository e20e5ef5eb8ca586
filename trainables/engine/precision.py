"""Which precision a network computes in: fp32, or bf16 where that is faster.

bf16 halves the work of large convolutions and slows small and depthwise ones down, by how much
depends on the processor. So ``auto`` times both, once per architecture, batch and device, and
keeps the answer on disk: all trials of a node then compute alike, today and after a restart.
bf16 means autocast: weights, BatchNorm statistics and losses stay in fp32.
"""

import contextlib
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.cache_root import cache_root
from trainables.models.blueprint import Blueprint, build
from trainables.models.outputs import Network, Outputs
from trainables.worker import kept

GAIN = 1.1
"""bf16 is taken where it is faster by this factor: a near tie is not worth its rounding."""

ROUNDS = 3

LONG_SECONDS = 4.0
"""The first round decides where it takes as long: start-up is nothing beside it."""

_PIXELS = 1 << 18  # of a batch that a CPU is timed with; a step on more would take minutes

CLEAR = 2.0
"""One round decides where one precision is faster by this factor. Processors that know no bf16
take ten times as long, and more, for every step."""


def computing(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context in which networks compute in ``fp32`` or ``bf16``."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def choose_precision(
    wanted: str,
    work: Literal["train", "infer"],
    blueprint: Blueprint,
    classes: int,
    image_shape: tuple[int, int, int],
    batch: int,
    device: torch.device,
) -> str:
    """``fp32`` or ``bf16`` for a network.

    Args:
        wanted: ``fp32``, ``bf16``, or ``auto`` to time both.
        work: training steps, or forward passes of a frozen network.
        blueprint: of the network.
        classes, image_shape: of the data.
        batch: images per step.
        device: where it computes.
    """
    if wanted != "auto":
        return wanted
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return _faster(work, blueprint, classes, image_shape, batch, str(device), threads)


@kept("precisions", entries=1024)
def _faster(
    work: str,
    blueprint: Blueprint,
    classes: int,
    image_shape: tuple[int, int, int],
    batch: int,
    device: str,
    threads: int,
) -> str:
    """The answer on disk, or a new one."""
    question = [work, blueprint.label, classes, image_shape, batch, _processor(device), threads]
    name = hashlib.sha256(json.dumps([*question, torch.__version__]).encode()).hexdigest()[:24]
    file = None
    with contextlib.suppress(OSError, ValueError, KeyError, RuntimeError):
        file = cache_root() / "precision" / f"{name}.json"
        return str(json.loads(file.read_text())["precision"])
    seconds = _measured(work, blueprint, classes, image_shape, batch, torch.device(device))
    answer = "bf16" if seconds["fp32"] > GAIN * seconds["bf16"] else "fp32"
    record = {"precision": answer, "seconds": seconds, "question": question}
    return _first_answer(file, record) if file else answer


def _first_answer(file: Path, record: Mapping[str, object]) -> str:
    """Writes the answer; of several processes that measure at once the first decides for all."""
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to fail
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(record))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, file)
        fresh.unlink()
        with contextlib.suppress(ValueError, KeyError):
            return str(json.loads(file.read_text())["precision"])
    return str(record["precision"])


def _measured(
    work: str,
    blueprint: Blueprint,
    classes: int,
    image_shape: tuple[int, int, int],
    batch: int,
    device: torch.device,
) -> dict[str, float]:
    """Median seconds of a step in each precision, taken in turns; leaves the RNGs as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = build(blueprint, classes, image_shape)
        network.to(device).to(memory_format=torch.channels_last)
        if device.type == "cpu":
            batch = min(batch, max(2, _PIXELS // (image_shape[1] * image_shape[2])))
        images = torch.rand(batch, *image_shape, device=device)
        images = images.to(memory_format=torch.channels_last)
        target = torch.arange(batch, device=device) % classes
        step = _training_step if work == "train" else _forward_pass
        network.train(work == "train")

        def timed(precision: str) -> float:
            with computing(precision, device):
                return _seconds(lambda: step(network, images, target), device)

        return _in_turns(timed)


def _in_turns(timed: Callable[[str], float]) -> dict[str, float]:
    """Medians of what ``timed`` says of each precision, taken in turns until they are clear."""
    first = {precision: timed(precision) for precision in ("fp32", "bf16")}
    if first["bf16"] > CLEAR**2 * first["fp32"]:  # although both paid for their start
        return first
    if sum(first.values()) > LONG_SECONDS:
        return first
    taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(ROUNDS):
        for precision, seconds in taken.items():
            seconds.append(timed(precision))
        medians = {precision: statistics.median(seconds) for precision, seconds in taken.items()}
        if max(medians.values()) > CLEAR * min(medians.values()):
            break
    return medians


def _training_step(network: Network, images: Tensor, target: Tensor) -> None:
    outputs: Outputs = network(images)
    F.cross_entropy(outputs.logits.float(), target).backward()
    network.zero_grad(set_to_none=True)


def _forward_pass(network: Network, images: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        network(images)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
