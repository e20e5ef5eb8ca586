"""SRDwithDIST: SRD whose representational loss is DIST's (chitraz 2023; arXiv 2205.06701).

From the comparison Knowledge Distillation for Model Compression (DIST: arXiv 2205.10536),

    L = CE + α · L_FM + β · [ (1 − mean row Pearson) + (1 − mean column Pearson) ]

between the cross-network logits W_t(GAP(A(F_s))) and z_t, as they are: no softmax and no
temperature. α = 1; β = 4 or 10 by the pair of networks.
"""

from dataclasses import dataclass

from torch import Tensor

from trainables.methods.dist import pearson_distance
from trainables.methods.srd import SRD, SRDConfig
from trainables.settings import setting


def srd_dist_loss(cross_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The two Pearson distances of raw logits, added.

    Args:
        cross_logits, teacher_logits: ``[B, classes]``.

    Returns:
        A scalar in [0, 4], float32; for more than one image 0 where the logits agree.
    """
    cross, wanted = cross_logits.float(), teacher_logits.float()
    return pearson_distance(cross, wanted) + pearson_distance(cross.t(), wanted.t())


@dataclass(frozen=True, kw_only=True, slots=True)
class SRDDISTConfig(SRDConfig):
    """Weights of `SRDDIST`."""

    beta: float = setting(
        10.0,
        "weight of the representational loss",
        at_least=0,
        search=(1, 40),
        log=True,
        weight=True,
    )


class SRDDIST(SRD):
    """SRDwithDIST beside the full cross-entropy."""

    Config = SRDDISTConfig

    def representational(self, cross_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return srd_dist_loss(cross_logits, teacher_logits)
