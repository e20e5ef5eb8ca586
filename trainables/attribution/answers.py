"""What networks say to images, and how far two of them say the same."""

import torch
from torch import Tensor

from trainables.models.outputs import Network
from trainables.models.shapes import evaluating

BATCH = 128


@torch.no_grad()
def logits_of(network: Network, images: Tensor) -> Tensor:
    """``[M, classes]`` float32, in evaluation mode."""
    with evaluating(network):
        return torch.cat([network(part).logits.float() for part in images.split(BATCH)])


def says(logits: Tensor, independent: bool) -> Tensor:
    """Which classes a network says are there, bool ``[M, classes]``: σ(z) > 0.5, or the greatest.

    Args:
        logits: ``[M, classes]``.
        independent: whether every class is a question by itself.
    """
    if independent:
        return logits > 0
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(1, True), True)


def agreement(one: Tensor, other: Tensor, independent: bool) -> float | None:
    """The share of what two networks say that both say.

    Of images of one class, those for which they say the same. Otherwise of all classes that one of
    them says are in an image, those that both say are: what nobody sees is no agreement.

    Args:
        one, other: logits ``[M, classes]``.
        independent: as for `says`.

    Returns:
        None where neither says anything.
    """
    first, second = says(one, independent), says(other, independent)
    if not independent:
        return (first & second).any(1).double().mean().item()
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else None
