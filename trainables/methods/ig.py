"""IG: images overlaid with the teacher's attribution (Hernandez et al., arXiv 2506.14440).

A modifier: alone an augmentation that shows where the teacher looks, beside other terms also their
student's input. M is the teacher's map of an image by integrated gradients (Sundararajan et al.,
ICML 2017, arXiv 1703.01365): the sum over channels of absolute attributions. In every step, for
every image by itself,

    u ~ U[0, ln γ],  M' = M^(e^u),  M'' = (M' − min M') / (max M' − min M')
    with probability p:   x̃ = s · x + (1 − s) · M''   in every channel of pixels in [0, 1]

γ = 2, so that the exponent is log-uniform in [1, 2], s = 0.5 and p = 0.1. Labels stay what they
are. ``ig``, ``kd+ig``, ``ig+at``, ``kd+ig+at`` are the paper's combinations.

The map is that of the image itself, under the very crop and flip that the student sees; minimum
and maximum are those of the view. In the released code they are not: its maps and logits are
stored in the order of a shuffled loader and looked up by the image's index, so that each image
gets those of another one, and taken on another crop than the student's. ``alignment: shuffled``
repeats that for the maps (a fixed permutation without fixed points; of images as they are), to
measure what alignment is worth. The logits are aligned in either case.

A view whose map is constant stays as it is; in the released code it becomes NaN.

``teacher_sees: view`` is the authors' way: what the teacher says to plain views is taught, and can
be looked up; with ``overlay`` it sees what the student sees. Beside mixup, overlaid images are
mixed, and both have to agree on what the teacher sees: ``mixup.teacher_mix: logits`` with ``view``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.attribution.map_settings import BASELINES, STEPS, TARGETS
from trainables.methods.changes import Overlay
from trainables.methods.term import Batch, InputModifier
from trainables.settings import setting


def overlay_of(maps: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """M'': maps to a power, stretched to [0, 1] each.

    Args:
        maps: at least 0, ``[B, 1, H, W]``.
        exponents: at least 1, ``[B, 1, 1, 1]``.

    Returns:
        ``[B, 1, H, W]`` float32, and whether there is anything to see, bool ``[B, 1, 1, 1]``:
        of a constant map all is 0.
    """
    powers = maps.float().pow(exponents)
    low, high = powers.amin((2, 3), keepdim=True), powers.amax((2, 3), keepdim=True)
    span = high - low
    seen = span > 0
    return (powers - low) / torch.where(seen, span, 1.0), seen


@dataclass(frozen=True, kw_only=True, slots=True)
class IGConfig:
    """What `IG` overlays, how often and how strongly."""

    probability: float = setting(
        0.1, "p, the share of images with an overlay", at_least=0, at_most=1, search=(0.05, 0.5)
    )
    share: float = setting(
        0.5, "s, the share of the image where it has an overlay", at_least=0, at_most=1
    )
    exponent: float = setting(2.0, "γ, the greatest exponent of a map; the least is 1", at_least=1)
    alignment: str = setting(
        "aligned",
        "the image's own map under the student's view; or another image's, for an ablation",
        choices=("aligned", "shuffled"),
    )
    teacher_sees: str = setting(
        "view", "whether the teacher sees the view, or its overlay", choices=("view", "overlay")
    )
    target: str = setting(
        "label",
        "whose logit is attributed: the label's, or the teacher's first choice's",
        choices=TARGETS,
    )
    baseline: str = setting(
        "mean",
        "the image that attribution starts from; mean: of each channel, which is the authors'",
        choices=BASELINES,
    )
    steps: int = setting(STEPS, "points on the way from the baseline", at_least=1)


class IG(InputModifier):
    """Every image, with a probability, under its attribution map."""

    reads_maps = True
    plain_serves = None
    Config = IGConfig

    def __init__(self, config: IGConfig) -> None:
        super().__init__(config)
        self.plain_teacher = config.teacher_sees == "view"

    @property
    def map_settings(self) -> Mapping[str, Any]:  # type: ignore[override]
        config = self.config
        return {key: getattr(config, key) for key in ("target", "baseline", "steps", "alignment")}

    def draw(self, batch: Batch) -> Batch:
        assert batch.maps is not None
        shape = (2, len(batch.target), 1, 1, 1)
        chance, power = torch.rand(shape, device=batch.maps.device)
        pixels, seen = overlay_of(batch.maps, torch.exp(power * math.log(self.config.exponent)))
        chosen = (chance < self.config.probability) & seen
        return batch._replace(overlay=Overlay(pixels, chosen * (1 - self.config.share)))

    def forward(self, images: Tensor, batch: Batch) -> Tensor:
        assert batch.overlay is not None
        assert batch.normalisation is not None
        return batch.overlay(images, batch.normalisation)
