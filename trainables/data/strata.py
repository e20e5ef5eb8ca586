"""Stratified splits of images that are of several classes at once: iterative stratification.

Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011,
Algorithm 1 for two parts: the class with the fewest images left is dealt first, each image to the
part that wants most of that class, then to the part that wants most images. A tie goes to the
first part, and images come in an order that follows from the seed.
"""

import numpy as np
import torch
from torch import Tensor

from trainables.data.counter_hash import counter_hash

_SPLIT = 1
_SUBSET = 2


def iterative_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out about ``fraction`` of the images and of every class.

    Args:
        labels: uint8 or bool ``[N, classes]`` of 0 and 1; whatever else is no 1.
        fraction: in [0, 1); 0 holds out nothing.
        seed: the same seed holds out the same images.

    Returns:
        ``(rest, held_out)``: sorted int64 indices that together are ``0 .. N-1``.

    Raises:
        ValueError: ``fraction`` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be in [0, 1), not {fraction}")
    indices = torch.arange(len(labels))
    if not fraction:
        return indices, indices[:0]
    second = _dealt(labels, _order(_SPLIT, seed, indices), fraction)
    return indices[~second], indices[second]


def iterative_subset(labels: Tensor, indices: Tensor, fraction: float, seed: int) -> Tensor:
    """Keep about ``fraction`` of ``indices`` and of every class, and one image of each at least.

    Args:
        labels: uint8 or bool ``[N, classes]`` of the whole set; whatever is not 1 is no 1.
        indices: int64 ``[M]``, the images to choose from.
        fraction: in (0, 1]; 1 keeps all.
        seed: the same seed keeps the same images.

    Returns:
        Sorted int64 indices, a subset of ``indices``.

    Raises:
        ValueError: ``fraction`` is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the kept fraction must be in (0, 1], not {fraction}")
    indices = torch.sort(indices).values
    if fraction == 1:
        return indices
    own, order = labels[indices] == 1, _order(_SUBSET, seed, indices)
    kept = _dealt(own, order, fraction)
    for one in range(own.shape[1]):
        of_it = order[own[order, one]]
        if len(of_it) and not kept[of_it].any():
            kept[of_it[0]] = True
    return indices[kept]


def _order(purpose: int, seed: int, indices: Tensor) -> Tensor:
    return torch.argsort(counter_hash(purpose, seed, 0, indices), stable=True)


def _dealt(labels: Tensor, order: Tensor, fraction: float) -> Tensor:
    """Mark the images that the second part gets, which wants ``fraction`` of all: bool ``[N]``."""
    yes = (labels[order] == 1).numpy()
    second, left = np.zeros(len(yes), dtype=bool), np.ones(len(yes), dtype=bool)
    shares = np.array([1 - fraction, fraction])
    wanted = shares[:, None] * yes.sum(axis=0)  # images of each class, by part
    room = shares * len(yes)
    while (counts := yes[left].sum(axis=0)).any():
        rarest = int(np.where(counts > 0, counts, len(yes) + 1).argmin())
        for image in np.flatnonzero(left & yes[:, rarest]):
            ours, theirs = wanted[:, rarest]
            part = int(theirs > ours or (theirs == ours and room[1] > room[0]))
            second[image] = part
            wanted[part, yes[image]] -= 1
            room[part] -= 1
        left &= ~yes[:, rarest]
    for image in np.flatnonzero(left):
        part = int(room[1] > room[0])
        second[image] = part
        room[part] -= 1
    marked = torch.zeros(len(yes), dtype=torch.bool)
    marked[order] = torch.from_numpy(second)
    return marked
