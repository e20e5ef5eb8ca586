"""The views of an image under crop and flip: finitely many, so each one has a number.

A view is a crop of the zero-padded image, perhaps mirrored: ``(2p + 1)^2`` crops, twice as many
with the flip. Or it is one of ``K`` boxes, resized to the whole image: see
`trainables.data.resized_crops`. Which view an image shows in an epoch is a pure function of (view
seed, epoch, index): it does not depend on the batch, the order or the process. Hence trials that
share a view seed see the same views, and what a teacher answers to a view can be looked up.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.counter_hash import below, counter_hash
from trainables.data.dataset import Dataset
from trainables.data.orbit import number_of_views
from trainables.data.resized_crops import crop_boxes, crop_resize
from trainables.worker import kept

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of every channel, of pixels from 0 to 1."""

_VIEW = 3


class Offsets(NamedTuple):
    """One view per image.

    Attributes:
        dy: int64 ``[B]`` in ``[0, 2p]``, top row of the crop in the padded image; of resized
            crops the number of the box, in ``[0, K)``.
        dx: int64 ``[B]`` in ``[0, 2p]``, left column; ``dy == dx == p`` is the image itself. 0 of
            resized crops.
        flip: bool ``[B]``, whether the crop is then mirrored left to right.
    """

    dy: Tensor
    dx: Tensor
    flip: Tensor


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """Which view of which image is shown when.

    Attributes:
        padding: ``p``, zero pixels added on each side before the crop.
        flip: whether views may be mirrored left to right.
        seed: the view seed; it belongs to the repeat, not to the trial.
        resized_crops: ``K``, boxes that are resized to the whole image, the same of every image,
            seed and repeat; 0: padded crops. Only without padding.
    """

    padding: int
    flip: bool
    seed: int
    resized_crops: int = 0

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"crop padding must not be negative, not {self.padding}")
        if self.resized_crops < 0 or (self.padding and self.resized_crops):
            raise ValueError("resized crops: a number that is not negative, and no padding beside")

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        seed: int,
        *,
        padding: int | None = None,
        resized_crops: int | None = None,
        flip: bool | None = None,
    ) -> "ViewPlan":
        """The views of a data set's images; what is None is the data set's own.

        Padding that is asked for takes the place of resized crops that are not.
        """
        if resized_crops is None:
            resized_crops = dataset.resized_crops if padding is None else 0
        if padding is None:
            padding = 0 if resized_crops else dataset.crop_padding
        return cls(
            padding=padding,
            flip=dataset.flip if flip is None else flip,
            seed=seed,
            resized_crops=resized_crops,
        )

    @property
    def number_of_views(self) -> int:
        """``(2p + 1)^2`` or ``K``, twice that with the flip."""
        return number_of_views(self.padding, self.flip, self.resized_crops)

    @property
    def _grid(self) -> tuple[int, int]:
        """How many values `Offsets.dy` and `Offsets.dx` have."""
        side = 2 * self.padding + 1
        return (self.resized_crops, 1) if self.resized_crops else (side, side)

    def view_ids(self, epoch: int, indices: Tensor) -> Tensor:
        """The view of each image in ``epoch``: int64 ``[B]``, uniform over all views.

        A pure function of (seed, epoch, index), the same on CPU and CUDA.
        """
        return below(counter_hash(_VIEW, self.seed, epoch, indices), self.number_of_views)

    def from_id(self, view_ids: Tensor) -> Offsets:
        """The inverse of `view_id`."""
        height, width = self._grid
        rows = view_ids // width
        return Offsets(dy=rows % height, dx=view_ids % width, flip=rows >= height)

    def view_id(self, dy: Tensor, dx: Tensor, flip: Tensor) -> Tensor:
        """The number of a view, int64 in ``[0, number_of_views)``; see `Offsets`."""
        height, width = self._grid
        return (flip.long() * height + dy) * width + dx

    def offsets(self, epoch: int, indices: Tensor) -> Offsets:
        """`view_ids` as crop position and flip. ``indices``: int64 ``[B]``."""
        return self.from_id(self.view_ids(epoch, indices))

    def images(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """The views shown in ``epoch``.

        Args:
            images: uint8 ``[N, C, H, W]``, the whole set, unpadded.
            epoch: the epoch, from 0.
            indices: int64 ``[B]`` into ``images``, on the same device.

        Returns:
            uint8 ``[B, C, H, W]`` on the device of ``images``.
        """
        return self.show(images.index_select(0, indices), self.offsets(epoch, indices))

    def show(self, images: Tensor, offsets: Offsets) -> Tensor:
        """Given views of the images of a batch, uint8 ``[B, C, H, W]``, or of maps of them.

        See `crop_flip` and `crop_resize`; maps may be of floating point, with any channels.
        """
        if self.resized_crops:
            height, width = images.shape[2:]
            boxes = crop_boxes(self.resized_crops, height, width, images.device)
            return crop_resize(images, boxes[offsets.dy], offsets.flip)
        if self.number_of_views == 1:
            return images
        return crop_flip(images, offsets, self.padding)


def crop_flip(images: Tensor, offsets: Offsets, padding: int) -> Tensor:
    """Given views of given images, in one gather.

    Args:
        images: uint8 ``[B, C, H, W]``, unpadded.
        offsets: the view of each; an epoch's offsets may be computed at once and sliced.
        padding: zero pixels on each side that ``offsets`` refer to.

    Returns:
        uint8 ``[B, C, H, W]``.
    """
    batch, channels, height, width = images.shape
    # Measured against strided windows (with the set padded once or by batch), contiguous runs
    # and channels-last storage: gathering from the padded batch is among the fastest and needs
    # no private padded copy of the set.
    padded = F.pad(images, (padding,) * 4)
    rows = torch.arange(height, device=images.device) + offsets.dy[:, None]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(offsets.flip[:, None], width - 1 - columns, columns)
    columns = columns + offsets.dx[:, None]
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    pixels = pixels.view(batch, 1, height * width).expand(batch, channels, height * width)
    views = padded.view(batch, channels, -1).gather(2, pixels)
    return views.view(batch, channels, height, width)


def to_float(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    channels_last: bool = True,
) -> Tensor:
    """Pixels to normalised network input: ``(images / 255 - mean) / std`` per channel.

    Args:
        images: uint8 ``[B, C, H, W]``.
        mean: of each channel, scaled to [0, 1].
        std: of each channel, scaled to [0, 1].
        channels_last: memory format of the result.

    Returns:
        float32 ``[B, C, H, W]``.
    """
    batch, channels, height, width = images.shape
    if not channels_last:
        scale, shift = _scale_and_shift(mean, std, 1, images.device)
        values = images.to(torch.float32)
        return torch.addcmul(shift.view(-1, 1, 1), values, scale.view(-1, 1, 1), out=values)
    # Reordered while they are bytes, then one float buffer: measured 5 times faster at batch 512
    # than reordering floats, whose buffers the C library maps anew for every batch.
    scale, shift = _scale_and_shift(mean, std, width, images.device)
    rows = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels).to(torch.float32)
    torch.addcmul(shift, rows, scale, out=rows)
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def normalised(values: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(values - mean) / std`` per channel: what pixels become that are no bytes.

    Args:
        values: in [0, 1], ``[B, C, H, W]`` float32, or ``[B, 1, H, W]`` for equal channels.
        mean, std: as for `to_float`.

    Returns:
        float32 ``[B, C, H, W]``.
    """
    scale, shift = _scale_and_shift(mean, std, 1, values.device)
    return torch.addcmul(shift.view(-1, 1, 1), values, scale.view(-1, 1, 1), value=255)


@kept("normalisations", entries=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], repeats: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """``1 / (255 std)`` and ``-mean / std``, each ``[repeats * C]``.

    Kept, because a copy to a GPU makes the host wait.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.repeat(repeats), shift.repeat(repeats)
