"""The shapes of what a network returns, found by one forward pass."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.models.family import ImageShape
from trainables.models.features import (
    CLASS_WEIGHTS,
    INPUT_GRADIENT,
    MODULE,
    STAGE_GRADIENT,
    behind_logits,
    hearing,
)
from trainables.models.outputs import Network, Shapes
from trainables.models.pooling import is_average, is_flattened


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the context; afterwards every module has its own flag back."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def blank_images(model: nn.Module, image_shape: ImageShape) -> Tensor:
    """One black image ``[1, C, H, W]`` on the device and in the dtype of the model's weights."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    like = next(tensor for tensor in tensors if tensor.is_floating_point())
    return torch.zeros(1, *image_shape, dtype=like.dtype, device=like.device)


@torch.enable_grad()
def output_shapes(model: Network, image_shape: ImageShape) -> Shapes:
    """Shapes of the model's outputs; weights, BatchNorm statistics and modes stay as they are.

    Args:
        model: on any device, also ``meta``, where this costs no computation.
        image_shape: ``(C, H, W)``.
    """
    # With the graph of the pass, also through frozen weights, to see where the embedding is from.
    images = blank_images(model, image_shape).requires_grad_().clone()
    names = [name for name, _ in model.named_modules() if name]
    with evaluating(model), hearing(model, names, lambda output: tuple(output.shape[1:])) as heard:
        outputs = model(images)
    features: dict[str, tuple[int, ...]] = {MODULE + name: one for name, one in heard.items()}
    stages = _map_shapes(outputs.stages)
    behind = behind_logits(outputs.logits, outputs.stages)
    for number, (shape, found) in enumerate(zip(stages, behind, strict=True)):
        if found:
            features[f"{STAGE_GRADIENT}{number}"] = shape
    features[CLASS_WEIGHTS] = (outputs.logits.shape[1], outputs.embedding.shape[1])
    return Shapes(
        outputs.logits.shape[1],
        outputs.embedding.shape[1],
        stages,
        _map_shapes(outputs.shortcuts),
        bool(outputs.stages) and is_average(outputs.embedding, outputs.stages[-1]),
        {**features, INPUT_GRADIENT: image_shape},
        bool(outputs.stages) and is_flattened(outputs.embedding, outputs.stages[-1]),
    )


def _map_shapes(maps: tuple[Tensor, ...]) -> tuple[tuple[int, int, int], ...]:
    return tuple((found.shape[1], found.shape[2], found.shape[3]) for found in maps)
