"""What is asked of a map, whoever made it: whether it says anything, and its values from 0 to 1."""

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Values of a map that differ by no more than this share of the largest are equal."""


def is_empty(maps: Tensor) -> Tensor:
    """Whether a map says nothing of where: it is constant to rounding, or not finite.

    A Grad-CAM of a class that nothing speaks for is zero everywhere. Such a map finds no object
    and resembles no other: who scores maps counts it as ``empty_maps``, and takes all of its
    positions for equal.

    Args:
        maps: ``[..., H, W]``.

    Returns:
        bool ``[...]``.
    """
    values = maps.flatten(-2).float()
    low, high = values.amin(-1), values.amax(-1)
    varied = high - low > ROUNDING * torch.maximum(low.abs(), high.abs())
    return ~(varied & values.isfinite().all(-1))


def to_unit(maps: Tensor) -> Tensor:
    """Each map from 0, its smallest value, to 1, its largest; an empty one is 0 everywhere.

    Args:
        maps: ``[..., H, W]``.

    Returns:
        float32 of the same shape.
    """
    values = maps.float()
    low, high = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
    empty = is_empty(values)[..., None, None]
    return torch.where(empty, 0.0, (values - low) / torch.where(empty, 1.0, high - low))
