"""The shapes of what a network returns, found by one forward pass."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.dispatching import Uncompiled
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


_ATEN = torch.ops.aten
_NORM = _ATEN.native_batch_norm.default
_IN_PLACE = frozenset((_ATEN.relu_.default, _ATEN.hardtanh_.default, _ATEN.silu_.default))
_LIKE_THE_FIRST = frozenset((_ATEN.relu.default, _ATEN.hardtanh.default, _ATEN.silu.default))


class _Shortcuts(Uncompiled):
    """Knows of a few layers that a tensor without values comes out as it went in."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is _NORM:
            nothing = args[0].new_empty(0)
            return torch.empty_like(args[0]), nothing, nothing
        if func in _IN_PLACE:
            return args[0]
        if func in _LIKE_THE_FIRST:
            return torch.empty_like(args[0])
        if func is _ATEN.add.Tensor and not kwargs and _alike(*args):
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _alike(one: Tensor, other: object, *_: object) -> bool:
    return isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype


def shortcuts(images: Tensor) -> AbstractContextManager[object]:
    """Makes a pass in evaluation mode quicker where nothing but shapes comes of it.

    torch works out in Python what comes of a BatchNorm, a ReLU or a sum on the ``meta`` device,
    and takes two to four times as long for it as for the rest of the pass.

    Args:
        images: what the network will be given; only on ``meta`` is there anything to save.
    """
    return _Shortcuts() if images.is_meta else nullcontext()


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
    with (
        evaluating(model),
        hearing(model, names, lambda output: tuple(output.shape[1:])) as heard,
        shortcuts(images),
    ):
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
