"""What a training step is fed with: the views of a batch, and what the teacher is known to say.

All that depends on the order and the views of an epoch alone is computed for the whole epoch, or
for many batches, at once: on a GPU small steps of their own would cost more than the training of
a small student.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.data.resident import PlacedImages
from trainables.data.transfer import sent
from trainables.data.views import Offsets, ViewPlan
from trainables.engine.remembering import Known, RememberingTeacher

AHEAD = 32
"""Batches of a GPU whose answers are looked up at once."""


class Feed(NamedTuple):
    """One batch.

    Attributes:
        indices: positions of the images in the training set, int64 ``[B]``, on the CPU.
        there: the same on the device.
        views: the pixels that are shown, uint8 ``[B, C, H, W]``, on the device.
        known: the teacher's answers as far as they were found; None where none are kept.
    """

    indices: Tensor
    there: Tensor
    views: Tensor
    known: Known | None


class Feeder:
    """Makes the batches of an epoch.

    Args:
        images: the training images.
        plan: which view of which image is shown when.
        answers: the teacher's tables; None where there are none.
        device: where the steps compute.
    """

    def __init__(
        self,
        images: PlacedImages,
        plan: ViewPlan,
        answers: RememberingTeacher | None,
        device: torch.device,
    ) -> None:
        self.images, self.plan, self.answers, self.device = images, plan, answers, device

    @property
    def _ahead(self) -> int:
        # On a CPU as late as can be: what other trials learn in the meantime is found, too.
        return 1 if self.device.type == "cpu" else AHEAD

    def __call__(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Feed]:
        """The batches of ``epoch`` in their order.

        Args:
            epoch: the epoch, from 0.
            batches: int64 ``[B]`` each, positions in the training set, on the CPU.
        """
        sizes = [len(indices) for indices in batches]
        indices = torch.cat([*batches])
        view_ids = self.plan.view_ids(epoch, indices)
        there = sent(indices, self.device).split(sizes)
        offsets = self.plan.from_id(sent(view_ids, self.device))
        shown = (
            Offsets(*found) for found in zip(*(part.split(sizes) for part in offsets), strict=True)
        )
        known = self._known(batches, view_ids.split(sizes))
        pixels = self.images.batches(batches, there)
        for batch, places, views, answers, images in zip(
            batches, there, shown, known, pixels, strict=True
        ):
            yield Feed(batch, places, self.plan.show(images, views), answers)

    def _known(
        self, batches: Sequence[Tensor], view_ids: Sequence[Tensor]
    ) -> Iterator[Known | None]:
        """What the tables say to each batch, looked up when it is due, or a little earlier."""
        for start in range(0, len(batches), self._ahead):
            chunk = slice(start, start + self._ahead)
            if self.answers is None:
                yield from [None] * len(batches[chunk])
            else:
                yield from self.answers.look_up(batches[chunk], view_ids[chunk], self.device)
