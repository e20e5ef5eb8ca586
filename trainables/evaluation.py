"""How well a network answers to a set of images."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainables.data.batches import evaluation_batches
from trainables.data.dataset import Images
from trainables.data.resident import place_images
from trainables.data.transfer import sent
from trainables.tasks.task import Score, Task

BATCH = 512
CPU_BATCH = 128
"""Images at once: larger batches leave a CPU's caches."""

_AREA = 128 * 128  # of larger images there are fewer at once, whose feature maps would be gigabytes


@torch.no_grad()
def score(
    logits_of: Callable[[Tensor], Tensor],
    images: Images,
    device: torch.device,
    task: Task,
    positions: Tensor | None = None,
) -> Score:
    """Scores a network on images as they are, without augmentation.

    Args:
        logits_of: from uint8 images ``[B, C, H, W]`` on ``device`` to logits ``[B, classes]``.
        images: at least one, on the CPU.
        device: where the network is.
        task: of the images' data set.
        positions: int64 ``[M]``, which of the images; None for all of them.
    """
    if positions is None:
        positions = torch.arange(len(images))
    batch = CPU_BATCH if device.type == "cpu" else BATCH
    batch = max(1, min(batch, batch * _AREA // images.images.shape[2:].numel()))
    plan = evaluation_batches(positions, batch)
    # Read so rarely that a GPU need not hold them.
    placed = place_images(images.images, device, "auto" if device.type == "cpu" else "host")
    there = sent(positions, device).split(batch)

    def said() -> Iterator[tuple[Tensor, Tensor]]:
        for indices, pixels in zip(plan, placed.batches(plan, there), strict=True):
            yield logits_of(pixels).float(), sent(images.labels[indices], device)

    return task.score(said())
