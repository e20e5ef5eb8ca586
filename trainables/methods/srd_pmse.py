"""SRDwithPMSE: SRD whose representational loss compares softmaxes (chitraz 2023; arXiv 2205.06701).

From the comparison Knowledge Distillation for Model Compression,

    L = CE + α · L_FM + β · mean ( softmax(W_t(GAP(A(F_s)))) − softmax(z_t) )²

mean over images and classes. α = 1, β = 2.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.methods.srd import SRD, SRDConfig
from trainables.settings import setting


def srd_pmse_loss(cross_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The mean squared difference of the softmaxes.

    Args:
        cross_logits, teacher_logits: ``[B, classes]``.

    Returns:
        A scalar in [0, 2 / classes], float32; 0 where the softmaxes agree.
    """
    cross, wanted = F.softmax(cross_logits.float(), dim=1), F.softmax(teacher_logits.float(), dim=1)
    return F.mse_loss(cross, wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class SRDPMSEConfig(SRDConfig):
    """Weights of `SRDPMSE`."""

    beta: float = setting(
        2.0,
        "weight of the representational loss",
        at_least=0,
        search=(0.1, 1000),
        log=True,
        weight=True,
    )


class SRDPMSE(SRD):
    """SRDwithPMSE beside the full cross-entropy."""

    Config = SRDPMSEConfig

    def representational(self, cross_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return srd_pmse_loss(cross_logits, teacher_logits)
