"""Where a foreign network computes its stages and its embedding.

One forward pass in evaluation mode tells: a stage is the output of the module that finishes
last at its spatial resolution, the embedding is the input of the linear layer that returns the
logits.
"""

from collections.abc import Container, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.family import ImageShape
from trainables.models.shapes import blank_images, evaluating

Size = tuple[int, int]


@torch.no_grad()
def find_features(network: nn.Module, image_shape: ImageShape) -> tuple[list[str], str]:
    """Names of the modules that return the stages, early to deep, and of the classifier.

    Args:
        network: images to logits; it stays as it is.
        image_shape: ``(C, H, W)``.

    Raises:
        UserError: what returns the logits is not a linear layer.
    """
    called: set[str] = set()
    maps: dict[str, Size] = {}  # in the order of finishing
    linear: tuple[str, Tensor] | None = None

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal linear
        called.add(name)
        if isinstance(module, nn.Linear):
            linear = name, output
        maps.pop(name, None)  # a shared module counts where it runs last
        if _is_map(module, inputs, output, image_shape):
            maps[name] = (output.shape[2], output.shape[3])

    handles = [
        module.register_forward_hook(partial(record, name))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with evaluating(network):
            logits = network(blank_images(network, image_shape))
    finally:
        for handle in handles:
            handle.remove()
    if linear is None or linear[1] is not logits:
        raise UserError("it does not end in one linear layer")
    path = {
        name: size
        for name, size in maps.items()
        if not _inside_a_block(name, network, maps, called)
    }
    return _last_per_resolution(path), linear[0]


def _is_map(
    module: nn.Module, inputs: tuple[Any, ...], output: Any, image_shape: ImageShape
) -> bool:
    """Whether an output is a feature map ``[1, C, h, w]`` of the image.

    Attention returns 4-D tensors too, and some networks keep channels last: the last two sizes
    of theirs do not shrink height and width alike.
    """
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[0] != 1:
        return False
    _, height, width = image_shape
    h, w = output.shape[2:]
    if abs(h / height - w / width) > 1 / height + 1 / width or h > height or w > width:
        return False
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return False
    return h * w > 1 or not _is_pooled(module, inputs)


def _is_pooled(module: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether a module that returns one pixel pools, or works on what was pooled before."""
    if next(module.parameters(), None) is None:
        return True
    source = inputs[0] if inputs else None
    return isinstance(source, Tensor) and source.ndim == 4 and source.shape[2:].numel() == 1


def _inside_a_block(
    name: str, network: nn.Module, maps: Mapping[str, Size], called: Container[str]
) -> bool:
    """Whether a block around the module returns a map of another resolution, or none.

    The first convolution of a down-sampling residual block is no stage, neither are the
    attention weights of a transformer block, but the convolution that makes its patches is. A
    Sequential around modules is no block: what its members return is the path of the network.
    """
    module = network.get_submodule(name)
    for end in [i for i, letter in enumerate(name) if letter == "."]:
        parent = name[:end]
        if parent not in called or isinstance(network.get_submodule(parent), nn.Sequential):
            continue
        if parent in maps:
            if maps[parent] != maps[name]:
                return True
        elif not isinstance(module, nn.Conv2d):
            return True
    return False


def _last_per_resolution(maps: dict[str, Size]) -> list[str]:
    """Walk back from the end; what is smaller than its successor lies on a side branch."""
    stages: list[str] = []
    largest = 0
    for name, (height, width) in reversed(maps.items()):
        if height * width > largest:
            largest = height * width
            stages.append(name)
    return stages[::-1]
