"""SSWA: stochastic sensitivity weighted attribution (Park et al., NeurIPS 2020, arXiv 2010.15054).

SWA (`trainables.methods.swa`), with ⌊C · r⌋ of the teacher's C channels left out of its map: drawn
anew at every step, the same for all images of a batch, while the sensitivities of the others stay
as they are. r = 0.1 is the released code's default; its instructions say 0.3.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainables.methods.swa import SWA, swa_loss
from trainables.settings import setting


def kept_channels(channels: int, drop: float, device: torch.device) -> Tensor:
    """Which of the channels stay, ``[C]`` bool, drawn from torch's generator."""
    return torch.randperm(channels, device=device) >= int(channels * drop)


def sswa_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    student_sensitivities: Tensor,
    teacher_sensitivities: Tensor,
    kept: Tensor,
) -> Tensor:
    """`swa_loss` with some of the teacher's channels left out.

    Args:
        student_features, teacher_features, student_sensitivities, teacher_sensitivities: as for
            `swa_loss`.
        kept: which of the teacher's channels stay, ``[C_t]`` bool.

    Returns:
        A scalar, float32, at least 0.
    """
    left = teacher_sensitivities * kept
    return swa_loss(student_features, teacher_features, student_sensitivities, left)


@dataclass(frozen=True, kw_only=True, slots=True)
class SSWAConfig:
    """Weights of `SSWA`."""

    weight: float = setting(
        100.0, "w, of the loss", at_least=0, search=(10, 1000), log=True, weight=True
    )
    drop: float = setting(
        0.1,
        "r, the share of the teacher's channels left out",
        at_least=0,
        at_most=1,
        search=(0.05, 0.5),
    )
    stages: str = setting(
        "last", "which pairs of stages: all, last, or numbers from 0 joined by commas"
    )


class SSWA(SWA):
    """Sensitivity weighted attribution matching with a part of the teacher's channels."""

    Config: ClassVar[type] = SSWAConfig
    key = "sswa"

    def loss(self, ours: Tensor, theirs: Tensor, own: Tensor, taught: Tensor) -> Tensor:
        kept = kept_channels(taught.shape[1], self.config.drop, taught.device)
        return sswa_loss(ours, theirs, own, taught, kept)
