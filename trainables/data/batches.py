"""Which images form which batch: the order of an epoch, cut into batches of indices."""

import torch
from torch import Tensor

from trainables.data.counter_hash import counter_hash

_ORDER = 4


def epoch_order(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """The training images in the order of ``epoch``.

    A pure function of (order seed, epoch, set of indices): a trial that continues from a
    checkpoint needs no generator state. Two images keep their relative order whichever other
    images are present.

    Args:
        seed: the trial's order seed.
        epoch: the epoch, from 0.
        indices: int64 ``[M]``, distinct.

    Returns:
        A permutation of ``indices``, on their device.
    """
    indices = torch.sort(indices).values
    return indices[torch.argsort(counter_hash(_ORDER, seed, epoch, indices), stable=True)]


def train_batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Full batches only, so that every step has the same shapes.

    The last partial batch of an epoch is dropped (other images meet that fate in the next
    epoch); a set smaller than ``batch_size`` is one batch.

    Args:
        order: int64 ``[M]``, as `epoch_order` gives it.
        batch_size: at least 1.

    Returns:
        Views of ``order``, each int64 ``[B]``.
    """
    full = len(order) // batch_size * batch_size
    return order[: full or len(order)].split(batch_size)


def evaluation_batches(indices: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """All of ``indices`` (int64 ``[M]``) in their order; the last batch may be smaller."""
    return indices.split(batch_size)
