"""What a network costs: parameters, multiply-accumulates, bytes, latency."""

import copy
import math
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.models.blueprint import Blueprint, build
from trainables.models.edits import MASK
from trainables.models.family import ImageShape
from trainables.models.int8 import Int8Layer
from trainables.models.shapes import blank_images, evaluating
from trainables.worker import kept

_WARM_UP_RUNS = 5
_LEAST_RUNS = 20
_BUDGET_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The cost of one network on one image.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates of one forward pass.
        size_bytes: bytes of parameters and buffers, of weights at their bit widths.
        latency_ms: milliseconds of one forward pass; None if it was not timed.
    """

    params: int
    macs: int
    size_bytes: int
    latency_ms: float | None


def count_params(model: nn.Module) -> int:
    """Number of trainable parameters, BatchNorm's scale and shift included, buffers never; of
    layers of integers the weights, which were trained."""
    return sum(weight.numel() for weight in counted_params(model))


def counted_params(model: nn.Module) -> list[Tensor]:
    """The parameters that `count_params` counts, in floating point or as integers."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return trained + [one.weight for one in model.modules() if isinstance(one, Int8Layer)]


@torch.no_grad()
def count_macs(model: nn.Module, image_shape: ImageShape) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention for one image.

    BatchNorm, activations, pooling and biases are not counted, as is usual in the field.
    Weights, BatchNorm statistics and modes stay as they are. A model on the ``meta`` device is
    counted without computing.

    Args:
        model: a network of images.
        image_shape: ``(C, H, W)``.
    """
    images = blank_images(model, image_shape)
    with evaluating(model), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def size_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, each at its own dtype.

    A weight whose bit width an edit has recorded (`trainables.models.edits.Bits`) is packed:
    ⌈values · bits / 8⌉. Masks of weights are not counted: the zeros that they stand for are there.
    """
    packed: dict[int, int] = {
        id(module.weight): module.weight_bits  # type: ignore[misc]
        for module in model.modules()
        if hasattr(module, "weight_bits")
    }
    buffers = (one for name, one in model.named_buffers() if not name.endswith(MASK))
    tensors = [*model.parameters(), *buffers]
    bits = ((one.numel(), packed.get(id(one), 8 * one.element_size())) for one in tensors)
    return sum(math.ceil(values * width / 8) for values, width in bits)


def latency_ms(
    model: nn.Module, image_shape: ImageShape, device: torch.device | str | None = None
) -> float:
    """Median time of one forward pass of one image, in milliseconds.

    In inference mode, after warm-up passes, the device synchronised before and after every
    pass, over at least 20 passes and about 0.3 s: the first pass of a process, which pays for
    start-up, never counts. A factor of latency holds between networks that were timed on the
    same device with the same number of threads.

    Args:
        model: a network of images; a model elsewhere is copied to the device.
        image_shape: ``(C, H, W)``.
        device: where to run; None: where the model is.
    """
    images = blank_images(model, image_shape)
    where = images.device if device is None else torch.device(device)
    network = model if where == images.device else copy.deepcopy(model).to(where)
    images = images.to(where)

    def seconds() -> float:
        _synchronise(where)
        start = time.perf_counter()
        network(images)
        _synchronise(where)
        return time.perf_counter() - start

    with torch.inference_mode(), evaluating(network):
        for _ in range(_WARM_UP_RUNS):
            seconds()
        times: list[float] = []
        while len(times) < _LEAST_RUNS or sum(times) < _BUDGET_SECONDS:
            times.append(seconds())
    return statistics.median(times) * 1000


def measure(
    model: nn.Module, image_shape: ImageShape, device: torch.device | str | None = None
) -> Measurement:
    """Measure a built network.

    Args:
        model: a network of images.
        image_shape: ``(C, H, W)``.
        device: where to time it; None: do not time it.
    """
    return Measurement(
        params=count_params(model),
        macs=count_macs(model, image_shape),
        size_bytes=size_bytes(model),
        latency_ms=None if device is None else latency_ms(model, image_shape, device),
    )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@kept("parameter counts", entries=4096)
def params_of(blueprint: Blueprint, classes: int, image_shape: ImageShape) -> int:
    """`count_params` of the network of a blueprint, once per process."""
    with torch.device("meta"):
        return count_params(build(blueprint, classes, image_shape))


@kept("operation counts", entries=256)
def macs_of(blueprint: Blueprint, classes: int, image_shape: ImageShape) -> int:
    """`count_macs` of the network of a blueprint, once per process."""
    with torch.device("meta"):
        return count_macs(build(blueprint, classes, image_shape), image_shape)


@kept("latencies", entries=64)
def latency_of(blueprint: Blueprint, classes: int, image_shape: ImageShape, device: str) -> float:
    """`latency_ms` of a blueprint, on an instance of its own, once per process."""
    network = build(blueprint, classes, image_shape)
    return latency_ms(network.to(device), image_shape, torch.device(device))
