"""Bit operations: multiply-accumulates, each weighed by the bits of its two factors."""

from contextlib import ExitStack

import torch
from torch import nn

from trainables.models.blueprint import Blueprint, build
from trainables.models.family import ImageShape
from trainables.models.flops import FlopCounter
from trainables.models.shapes import blank_images, evaluating, shortcuts
from trainables.worker import kept

FULL = 32
"""Bits of a factor of which nothing says that it has fewer."""


@torch.no_grad()
def bit_operations(model: nn.Module, image_shape: ImageShape) -> int:
    """Multiply-accumulates of one image x bits of the weight x bits of the input, summed.

    What counts as a multiply-accumulate is said by `compression.measure.count_macs`. A module's
    ``weight_bits`` and ``input_bits``, where it has them, hold for all that is computed in it,
    and of modules in modules those of the inner one; everything else counts `FULL` bits. So does
    bf16: it is how a sum is computed, of weights that are kept as 32 bits. Zeros save nothing
    here: sparsity is not counted.

    Args:
        model: a network of images; one on the ``meta`` device is counted without computing.
        image_shape: ``(C, H, W)``.
    """
    images = blank_images(model, image_shape)
    weighed = 0
    inner = [0]  # operations of the calls that have ended, one entry for each call under way
    began: list[int] = []

    def enter(module: nn.Module, args: object) -> None:
        began.append(counter.flops)
        inner.append(0)

    def leave(module: nn.Module, args: object, output: object) -> None:
        nonlocal weighed
        spent = counter.flops - began.pop()
        weighed += (spent - inner.pop()) // 2 * _bits(module, "weight") * _bits(module, "input")
        inner[-1] += spent

    with evaluating(model), ExitStack() as hooks, FlopCounter() as counter:
        for module in model.modules():
            if hasattr(module, "weight_bits") or hasattr(module, "input_bits"):
                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        with shortcuts(images):
            model(images)
        outside = counter.flops - inner[0]
    return weighed + outside // 2 * FULL * FULL


def _bits(module: nn.Module, of: str) -> int:
    return int(getattr(module, f"{of}_bits", None) or FULL)


@kept("bit operations", entries=256)
def bit_operations_of(blueprint: Blueprint, classes: int, image_shape: ImageShape) -> int:
    """`bit_operations` of the network of a blueprint, once per process."""
    with torch.device("meta"):
        return bit_operations(build(blueprint, classes, image_shape), image_shape)
