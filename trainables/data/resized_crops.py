"""Random resized crops as a countable set: ``K`` boxes, drawn once, the same for every image.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6, as torchvision's
``RandomResizedCrop`` draws them: area and aspect ratio first, then the place. There every image
gets a new box each time; here it gets one of ``K``, so that a view has a number and what a teacher
answers to it can be looked up. The boxes are a pure function of ``K`` and the size of the images:
no view seed moves them.

Area and ratio are those of the image as it is stored: of one that was squeezed to a square, the
ratio in the photograph is wider or narrower by as much.
"""

import math

import torch
from torch import Tensor

from trainables.data.counter_hash import counter_hash
from trainables.worker import kept

SCALE = (0.08, 1.0)
"""Least and greatest area of a box, of the image's."""

RATIO = (3 / 4, 4 / 3)
"""Least and greatest aspect ratio, width by height."""

_BOX = 11  # purpose of the hash
_ATTEMPTS = 10
_BITS = 11  # of a weight: 255 * 2^22 fits an int32


def draw_boxes(count: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """The boxes: top row, left column, height and width, in pixels.

    Args:
        count: ``K``. The boxes of a smaller number are the first of a larger one's.
        height, width: of the images.
    """
    numbers = torch.arange(count * _ATTEMPTS * 4).view(count, _ATTEMPTS, 4)
    bits = counter_hash(_BOX, 0, 0, numbers) >> 11  # 53 bits, signed
    draws = (bits.double() / 2**53 + 0.5).tolist()
    return [_box(attempts, height, width) for attempts in draws]


def _box(attempts: list[list[float]], height: int, width: int) -> tuple[int, int, int, int]:
    """The first attempt that fits into the image, else what is central and as large as can be."""
    low, high = map(math.log, RATIO)
    for of_area, of_ratio, of_row, of_column in attempts:
        area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * of_area)
        ratio = math.exp(low + (high - low) * of_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(of_row * (height - h + 1)), int(of_column * (width - w + 1)), h, w
    h = min(height, round(width / RATIO[0]))
    w = min(width, round(height * RATIO[1]))
    return (height - h) // 2, (width - w) // 2, h, w


@kept("boxes of crops", entries=16)
def crop_boxes(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """`draw_boxes` as int64 ``[K, 4]``; kept, because a copy to a GPU makes the host wait."""
    return torch.tensor(draw_boxes(count, height, width), device=device)


def crop_resize(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Boxes of images, resized to the whole image by bilinear interpolation, perhaps mirrored.

    Pixel centres lie at halves, and at the edge of a box its own last pixel is repeated, as in
    torchvision. No box is larger than the image, so nothing is ever made smaller, and there is
    nothing for antialiasing to do. Bytes are computed in integers, with weights of 11 bits and
    half rounded up: the same on every device, and within 1 of exact arithmetic.

    Args:
        images: ``[B, C, H, W]``, uint8 or of floating point.
        boxes: int64 ``[B, 4]``, one of each image: top, left, height, width.
        flip: bool ``[B]``, whether the resized crop is then mirrored left to right.

    Returns:
        The shape and type of ``images``.
    """
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.unbind(1)
    whole = images.dtype == torch.uint8
    one = 1 << _BITS if whole else 1
    first, second, below = _taps(top, box_height, height, whole)
    rows = (batch, channels, height, width)
    index = (batch, 1, height, 1)
    upper = images.gather(2, first.view(index).expand(rows))
    lower = images.gather(2, second.view(index).expand(rows))
    below = below.view(index)
    lines = upper * (one - below) + lower * below
    first, second, right = (
        torch.where(flip[:, None], taps.flip(1), taps)
        for taps in _taps(left, box_width, width, whole)
    )
    index = (batch, 1, 1, width)
    right = right.view(index)
    result = lines.gather(3, first.view(index).expand(rows)) * (one - right)
    result += lines.gather(3, second.view(index).expand(rows)) * right
    if not whole:
        return result.to(images.dtype)
    return ((result + (one * one >> 1)) >> (2 * _BITS)).to(torch.uint8)


def _taps(start: Tensor, length: Tensor, size: int, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Which two pixels of a line every pixel of the result lies between, and how near the second.

    Args:
        start, length: int64 ``[B]``, of the box along the line.
        size: of the result.
        whole: whether weights are integers, in ``1 / 2^11``.

    Returns:
        ``[B, size]`` each: int64, int64, and int32 or float32.
    """
    places = 2 * torch.arange(size, device=start.device) + 1
    # In units of 1 / (2 size) of a pixel, exactly.
    position = (places * length[:, None] - size).clamp_(min=0)
    position = torch.minimum(position, 2 * size * (length[:, None] - 1))
    first, rest = position // (2 * size), position % (2 * size)
    second = torch.minimum(first + 1, length[:, None] - 1)
    weight = ((rest << _BITS) + size) // (2 * size)
    near = weight.to(torch.int32) if whole else rest.to(torch.float32) / (2 * size)
    return start[:, None] + first, start[:, None] + second, near
