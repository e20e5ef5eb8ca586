"""How well a network classifies a set of images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.batches import evaluation_batches
from trainables.data.dataset import Images
from trainables.data.resident import place_images
from trainables.data.transfer import sent

BATCH = 512
CPU_BATCH = 128
"""Images at once: larger batches leave a CPU's caches."""


class Score(NamedTuple):
    """Mean cross-entropy in nats and accuracy in [0, 1] over a set of images."""

    loss: float
    acc: float


@torch.no_grad()
def score(
    logits_of: Callable[[Tensor], Tensor],
    images: Images,
    device: torch.device,
    positions: Tensor | None = None,
) -> Score:
    """Scores a network on images as they are, without augmentation.

    Args:
        logits_of: from uint8 images ``[B, C, H, W]`` on ``device`` to logits ``[B, classes]``.
        images: at least one, on the CPU.
        device: where the network is.
        positions: int64 ``[M]``, which of the images; None for all of them.
    """
    if positions is None:
        positions = torch.arange(len(images))
    sums = torch.zeros(2, device=device, dtype=torch.float64)
    batch = CPU_BATCH if device.type == "cpu" else BATCH
    plan = evaluation_batches(positions, batch)
    # Read so rarely that a GPU need not hold them.
    placed = place_images(images.images, device, "auto" if device.type == "cpu" else "host")
    there = sent(positions, device).split(batch)
    for indices, pixels in zip(plan, placed.batches(plan, there), strict=True):
        target = sent(images.labels[indices], device)
        logits = logits_of(pixels).float()
        sums[0] += F.cross_entropy(logits, target, reduction="sum")
        sums[1] += (logits.argmax(dim=1) == target).sum()
    loss, acc = (sums / len(positions)).tolist()
    return Score(loss, acc)
