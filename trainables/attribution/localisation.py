"""Localisation: whether a map of a class is where the class is, by a mask that people drew.

A pair is an image and a class that is in its mask. Pixels of that class are its foreground, those
of other classes and the background its background, and those that are void count neither way. With
P foreground and N background pixels, and the map's values m,

    AUC = 1/(P N) Σ_p Σ_n [m_p > m_n] + ½ [m_p = m_n]

is the area under the ROC curve of the map as a detector of pixels (Fawcett, An introduction to ROC
analysis, Pattern Recognition Letters 2006, section 7), taken from ranks instead of thresholds.
Pointing asks whether the greatest value is in the foreground (Zhang et al., Top-down Neural
Attention by Excitation Backprop, ECCV 2016, section 4.1, without its margin of 15 pixels); of
several that are the greatest, the share that is. IoU compares the foreground with the pixels above
20 % of the greatest value, as Zhou et al., Learning Deep Features for Discriminative Localization,
CVPR 2016, section 3.2, cut class activation maps.

A constant map says nothing of where: its AUC is 0.5, it never points at anything, and its IoU is 0.
So is one that holds no numbers.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.attribution.ranks import empty, sort
from trainables.data.dataset import VOID

THRESHOLD = 0.2
"""Share of a map's greatest value above which a pixel is taken for foreground."""

AT_ONCE = 2**20
"""Pixels of pairs at once: what sorts them has a dozen numbers of 64 bits for each."""


class Localised(NamedTuple):
    """What is said of every pair, ``[P]`` each.

    Attributes:
        auc: float64; NaN where there is no background that counts.
        pointing: float64, 0 to 1.
        intersection, union: int64, in pixels, of the foreground and the map above `THRESHOLD`.
        empty: bool, a map that says nothing.
    """

    auc: Tensor
    pointing: Tensor
    intersection: Tensor
    union: Tensor
    empty: Tensor

    @property
    def iou(self) -> Tensor:
        """Intersection over union of every pair, float64."""
        return self.intersection.double() / self.union.clamp_min(1)


def pairs_of(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Every image with every class of which it has pixels: int64 ``[P]`` and ``[P]``.

    Args:
        masks: uint8 ``[M, H, W]``, as `trainables.data.dataset.Masks` has them.

    Returns:
        Positions in ``masks``, and classes, sorted by both.
    """
    there = torch.zeros(len(masks), VOID + 1, dtype=torch.bool, device=masks.device)
    there.scatter_(1, masks.flatten(1).long(), True)
    images, values = there[:, 1:VOID].nonzero(as_tuple=True)
    return images, values


def localise(maps: Tensor, masks: Tensor, classes: Tensor) -> Localised:
    """Scores maps against masks.

    Args:
        maps: ``[P, h, w]`` float32; brought to the size of the masks where it is another one
            (bilinear, corners not aligned). Masks are never resized: their values are names.
        masks: uint8 ``[P, H, W]``: see `trainables.data.dataset.Masks`.
        classes: of which class each map is, int64 ``[P]``.
    """
    height, width = masks.shape[-2:]
    at_once = max(1, AT_ONCE // (height * width))
    parts = [
        _localise(resized(some, (height, width)).flatten(1), them.flatten(1), which)
        for some, them, which in zip(
            maps.split(at_once), masks.split(at_once), classes.split(at_once), strict=True
        )
    ]
    return Localised(*(torch.cat(found) for found in zip(*parts, strict=True)))


def miou(found: Localised, classes: Tensor) -> float:
    """Mean over classes of intersection over union, each over all pixels of its pairs, as of
    segmentations (Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective,
    IJCV 2015, section 4.1); NaN without pairs.

    Args:
        found: as `localise` gives it.
        classes: of the same pairs, int64 ``[P]``.
    """
    sums = [torch.bincount(classes, x.double()) for x in (found.intersection, found.union)]
    return (sums[0] / sums[1]).nanmean().item()


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of another size, ``[P, H, W]``: bilinear, corners not aligned."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(
        maps.unsqueeze(1), tuple(size), mode="bilinear", align_corners=False
    ).squeeze(1)


def _localise(maps: Tensor, masks: Tensor, classes: Tensor) -> Localised:
    inside = masks == (classes + 1).to(masks.dtype).unsqueeze(1)
    outside = ~inside & (masks != VOID)
    counts = inside | outside
    greatest = torch.where(counts, maps, -torch.inf).amax(1, keepdim=True)
    nothing = empty(maps) | empty(torch.where(counts, maps, greatest))
    maps = torch.where(nothing.unsqueeze(1), 0.0, maps)
    greatest = torch.where(nothing.unsqueeze(1), 0.0, greatest)
    tops = counts & (maps == greatest)
    pointing = (tops & inside).sum(1).double() / tops.sum(1)
    above = counts & (maps > THRESHOLD * greatest) & (greatest > 0)
    return Localised(
        auc=_auc(maps, inside, outside),
        pointing=torch.where(nothing, 0.0, pointing),
        intersection=(above & inside).sum(1),
        union=(above | inside).sum(1),
        empty=nothing,
    )


def _auc(values: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """``[P]`` float64 from ``[P, n]``; NaN where one side has no pixel."""
    found = sort(values)
    ours = inside.gather(1, found.order)
    others = outside.gather(1, found.order).long().cumsum(1)
    upto = others.gather(1, found.last)
    below = torch.where(found.first > 0, others.gather(1, (found.first - 1).clamp_min(0)), 0)
    beaten = torch.where(ours, below + upto, 0).sum(1).double() / 2
    return beaten / (inside.sum(1).double() * outside.sum(1))
