"""Stratified splits: every class keeps its share, every platform gets the same images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.data.counter_hash import counter_hash

_SPLIT = 1
_SUBSET = 2


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out ``fraction`` of every class, rounded half up per class.

    Args:
        labels: int64 ``[N]``, class indices.
        fraction: in [0, 1); 0 holds out nothing.
        seed: the same seed holds out the same images; a larger fraction holds out a superset.

    Returns:
        ``(rest, held_out)``: sorted int64 indices that together are ``0 .. N-1``.

    Raises:
        ValueError: ``fraction`` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be in [0, 1), not {fraction}")
    indices = torch.arange(len(labels))
    chosen = _first_of_each_class(labels, indices, fraction, seed, _SPLIT, at_least=0)
    return indices[~chosen], indices[chosen]


def stratified_subset(labels: Tensor, indices: Tensor, fraction: float, seed: int) -> Tensor:
    """Keep ``fraction`` of every class among ``indices``, and at least one image of each class.

    Args:
        labels: int64 ``[N]``, class indices of the whole set.
        indices: int64 ``[M]``, the images to choose from.
        fraction: in (0, 1]; 1 keeps all.
        seed: the same seed keeps the same images; a larger fraction keeps a superset.

    Returns:
        Sorted int64 indices, a subset of ``indices``.

    Raises:
        ValueError: ``fraction`` is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the kept fraction must be in (0, 1], not {fraction}")
    indices = torch.sort(indices).values
    chosen = _first_of_each_class(labels[indices], indices, fraction, seed, _SUBSET, at_least=1)
    return indices[chosen]


def held_out(counts: Sequence[int], fraction: float) -> list[int]:
    """How many images of each class `stratified_split` holds out, of as many as there are."""
    return [_share(count, fraction, at_least=0) for count in counts]


def enough_for_each(counts: Sequence[int]) -> float | None:
    """The least fraction, rounded up to two digits, that holds out an image of every class.

    Classes of one image, which must be trained on, are not counted.

    Args:
        counts: images of each class.

    Returns:
        None where no class has two images.
    """
    several = [count for count in counts if count > 1]
    if not several:
        return None
    needed = 0.5 / min(several)
    digits = 1 - math.floor(math.log10(needed))
    steps = math.ceil(needed * 10**digits - 1e-9)
    while min(held_out(several, round(steps / 10**digits, digits))) < 1:
        steps += 1
    return round(steps / 10**digits, digits)


def _share(count: int, fraction: float, *, at_least: int) -> int:
    """The share of a class of ``count`` images, rounded half up."""
    return min(count, max(at_least, math.floor(count * fraction + 0.5)))


def _first_of_each_class(
    labels: Tensor, indices: Tensor, fraction: float, seed: int, purpose: int, *, at_least: int
) -> Tensor:
    """Mark, in a random order within each class, the first ``fraction`` of it: bool ``[M]``."""
    shuffled = torch.argsort(counter_hash(purpose, seed, 0, indices), stable=True)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    take = torch.tensor(
        [_share(count, fraction, at_least=at_least) for count in counts.tolist()],
        dtype=torch.int64,
    )
    starts = torch.cumsum(counts, 0) - counts
    classes = labels[by_class]
    rank = torch.arange(len(labels)) - starts[classes]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class] = rank < take[classes]
    return chosen
