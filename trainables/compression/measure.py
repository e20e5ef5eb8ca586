"""What a network costs: parameters, multiply-accumulates, bytes."""

import math

import torch
from torch import Tensor, nn

from trainables.models.blueprint import Blueprint, build
from trainables.models.edits import MASK
from trainables.models.family import ImageShape
from trainables.models.flops import FlopCounter
from trainables.models.int8 import Int8Layer
from trainables.models.shapes import blank_images, evaluating, shortcuts
from trainables.worker import kept


def count_params(model: nn.Module) -> int:
    """Number of trainable parameters, BatchNorm's scale and shift included, buffers never; of
    layers of integers the weights, which were trained."""
    return sum(weight.numel() for weight in counted_params(model))


def counted_params(model: nn.Module) -> list[Tensor]:
    """The parameters that `count_params` counts, in floating point or as integers."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return trained + _integers(model)


def _integers(model: nn.Module) -> list[Tensor]:
    return [one.weight for one in model.modules() if isinstance(one, Int8Layer)]


def nonzero_params(model: nn.Module, *, frozen: bool = False) -> int:
    """Number of trainable parameters that are not zero, whether a mask or chance made the others
    so: the shifts of a BatchNorm that has not been trained are zero. Waits for the device.

    Args:
        model: counted.
        frozen: whether parameters count that are not trainable, too.
    """
    weights = [*model.parameters(), *_integers(model)] if frozen else counted_params(model)
    counts = [weight.detach().count_nonzero() for weight in weights]
    return int(torch.stack(counts).sum()) if counts else 0


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
    with evaluating(model), FlopCounter() as counter, shortcuts(images):
        model(images)
    return counter.flops // 2


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
