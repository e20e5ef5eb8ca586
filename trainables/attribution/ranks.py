"""Ranks and degenerate maps, as scores of maps need them: many maps at once, ties exact."""

from typing import NamedTuple

import torch
from torch import Tensor

FLAT = 1e-5
"""A map is constant whose range is at most this share of its greatest absolute value: a constant
one comes out of an interpolation with the rounding of float32, whose order means nothing."""


def empty(maps: Tensor) -> Tensor:
    """Which maps say nothing of where: constant ones, and those that are no numbers.

    Args:
        maps: ``[P, ...]``.

    Returns:
        bool ``[P]``.
    """
    flat = maps.flatten(1)
    finite = flat.isfinite().all(1)
    flat = torch.where(finite.unsqueeze(1), flat, 0.0)
    low, high = flat.aminmax(dim=1)
    return high - low <= FLAT * torch.maximum(high.abs(), low.abs())


class Sorted(NamedTuple):
    """Values from the least to the greatest, row by row, ``[P, n]`` each.

    Attributes:
        order: where each of them was.
        first, last: the places of the first and the last one that is equal to it.
    """

    order: Tensor
    first: Tensor
    last: Tensor


def sort(values: Tensor) -> Sorted:
    """Sorts rows, and finds what is tied.

    Args:
        values: ``[P, n]``, finite.
    """
    found, order = values.sort(dim=1, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    new = torch.ones_like(order, dtype=torch.bool)
    new[:, 1:] = found[:, 1:] != found[:, :-1]
    first = torch.where(new, places, 0).cummax(dim=1).values
    ends = torch.ones_like(new)
    ends[:, :-1] = new[:, 1:]
    none_yet = torch.where(ends, places, values.shape[1])
    last = none_yet.flip(1).cummin(dim=1).values.flip(1)
    return Sorted(order, first, last)


def ranks(values: Tensor) -> Tensor:
    """The rank of every value in its row, from 1; of tied values the mean of theirs.

    Args:
        values: ``[P, n]``, finite.

    Returns:
        ``[P, n]`` float64.
    """
    found = sort(values)
    mean = (found.first + found.last).double() / 2 + 1
    return torch.empty_like(mean).scatter_(1, found.order, mean)
