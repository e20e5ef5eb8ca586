"""How well a network classifies a set of images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.batches import evaluation_batches
from trainables.data.dataset import Images

BATCH = 512
CPU_BATCH = 128
"""Images at once: larger batches leave a CPU's caches."""


class Score(NamedTuple):
    """Mean cross-entropy in nats and accuracy in [0, 1] over a set of images."""

    loss: float
    acc: float


@torch.no_grad()
def score(logits_of: Callable[[Tensor], Tensor], images: Images, device: torch.device) -> Score:
    """Scores a network on images as they are, without augmentation.

    Args:
        logits_of: from uint8 images ``[B, C, H, W]`` on ``device`` to logits ``[B, classes]``.
        images: at least one.
        device: where the network is.
    """
    sums = torch.zeros(2, device=device, dtype=torch.float64)
    batch = CPU_BATCH if device.type == "cpu" else BATCH
    for indices in evaluation_batches(torch.arange(len(images)), batch):
        target = images.labels[indices].to(device)
        logits = logits_of(images.images[indices].to(device)).float()
        sums[0] += F.cross_entropy(logits, target, reduction="sum")
        sums[1] += (logits.argmax(dim=1) == target).sum()
    loss, acc = (sums / len(images)).tolist()
    return Score(loss, acc)
