"""What a training step is fed with: the views of a batch, and what the teacher is known to say.

All that depends on the order and the views of an epoch alone is computed for the whole epoch, or
for many batches, at once: on a GPU small steps of their own would cost more than the training of
a small student.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.data.resident import PlacedImages
from trainables.data.transfer import sent
from trainables.data.views import Offsets, ViewPlan
from trainables.teachers.remembering import Known, RememberingTeacher

AHEAD = 32
"""Batches of a GPU whose answers are looked up at once."""


class Feed(NamedTuple):
    """One batch.

    Attributes:
        indices: positions of the images in the training set, int64 ``[B]``, on the CPU.
        there: the same on the device.
        offsets: which views are shown, on the device.
        views: their pixels, uint8 ``[B, C, H, W]``, on the device.
        known: of every teacher that remembers, its answers as far as they were found.
    """

    indices: Tensor
    there: Tensor
    offsets: Offsets
    views: Tensor
    known: Mapping[RememberingTeacher, Known]


class Feeder:
    """Makes the batches of an epoch.

    Args:
        images: the training images.
        plan: which view of which image is shown when.
        device: where the steps compute.
    """

    def __init__(self, images: PlacedImages, plan: ViewPlan, device: torch.device) -> None:
        self.images, self.plan, self.device = images, plan, device

    @property
    def _ahead(self) -> int:
        # On a CPU as late as can be: what other trials learn in the meantime is found, too.
        return 1 if self.device.type == "cpu" else AHEAD

    def __call__(
        self, epoch: int, batches: Sequence[Tensor], teachers: Sequence[RememberingTeacher] = ()
    ) -> Iterator[Feed]:
        """The batches of ``epoch`` in their order.

        Args:
            epoch: the epoch, from 0.
            batches: int64 ``[B]`` each, positions in the training set, on the CPU.
            teachers: those whose answers are looked up.
        """
        sizes = [len(indices) for indices in batches]
        indices = torch.cat([*batches])
        view_ids = self.plan.view_ids(epoch, indices)
        there = sent(indices, self.device).split(sizes)
        offsets = self.plan.from_id(sent(view_ids, self.device))
        shown = (
            Offsets(*found) for found in zip(*(part.split(sizes) for part in offsets), strict=True)
        )
        known = self._known(batches, view_ids.split(sizes), teachers)
        pixels = self.images.batches(batches, there)
        for batch, places, views, answers, images in zip(
            batches, there, shown, known, pixels, strict=True
        ):
            yield Feed(batch, places, views, self.plan.show(images, views), answers)

    def _known(
        self,
        batches: Sequence[Tensor],
        view_ids: Sequence[Tensor],
        teachers: Sequence[RememberingTeacher],
    ) -> Iterator[Mapping[RememberingTeacher, Known]]:
        """What the tables say to each batch, looked up when it is due, or a little earlier."""
        for start in range(0, len(batches), self._ahead):
            chunk = slice(start, start + self._ahead)
            found = [
                teacher.look_up(batches[chunk], view_ids[chunk], self.device)
                for teacher in teachers
            ]
            for place in range(len(batches[chunk])):
                yield {
                    teacher: known[place] for teacher, known in zip(teachers, found, strict=True)
                }
