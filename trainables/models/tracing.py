"""Where a foreign network computes its stages and its embedding.

A network of timm says it. Of others, one forward pass in evaluation mode tells: a stage is the
output of the module that finishes last at its spatial resolution, the embedding is the input of
the linear layer that returns the logits.
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
    names = [*path]
    stages = _last_per_size([height * width for height, width in path.values()])
    return [names[place] for place in stages], linear[0]


QUARTERS = 4
"""Stages of a network that keeps one resolution, as a transformer does."""


@torch.no_grad()
def told_stages(network: Any, classifier: nn.Linear, image_shape: ImageShape) -> list[int]:
    """Which of the features that ``forward_intermediates`` of timm gives are stages.

    The last one at each resolution; where all have one resolution, the last of each quarter.

    Args:
        network: of any library; it stays as it is.
        classifier: what returns its logits.
        image_shape: ``(C, H, W)``.

    Returns:
        Their indices, early to deep. Empty where the network tells nothing, or not all: no
        feature maps ``[B, C, H, W]``, or no input of its last layer.
    """
    if not all(hasattr(network, name) for name in ("forward_intermediates", "forward_head")):
        return []
    images = blank_images(network, image_shape)
    try:
        with evaluating(network):
            features, maps = network.forward_intermediates(images)
            embedding = network.forward_head(features, pre_logits=True)
    except (AssertionError, RuntimeError, TypeError, ValueError, AttributeError):
        return []  # each of them only where it was never written for that network
    if embedding.shape != (1, classifier.in_features):
        return []
    if any(found.ndim != 4 for found in maps):
        return []
    sizes = [found.shape[2] * found.shape[3] for found in maps]
    if len(set(sizes)) == 1 < len(maps):
        return sorted({len(maps) * part // QUARTERS - 1 for part in range(1, QUARTERS + 1)} - {-1})
    return _last_per_size(sizes)


def _last_per_size(sizes: list[int]) -> list[int]:
    """Walk back from the end: places of what is larger than all that follows."""
    kept: list[int] = []
    for place in reversed(range(len(sizes))):
        if not kept or sizes[place] > sizes[kept[-1]]:
            kept.append(place)
    return kept[::-1]


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
