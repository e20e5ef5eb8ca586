"""SRDwithKL: SRD whose representational loss is KD's (chitraz 2023; arXiv 2205.06701).

From the comparison Knowledge Distillation for Model Compression (KD: arXiv 1503.02531),

    L = CE + α · L_FM + β · T² · KL( softmax(z_t / T) ‖ softmax(W_t(GAP(A(F_s))) / T) )

The released code applies the softmax twice; this is the intended form. α = 1, β = 2, T = 4.
"""

from dataclasses import dataclass

from torch import Tensor

from trainables.methods.kd import kd_loss
from trainables.methods.srd import SRD, SRDConfig
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class SRDKLConfig(SRDConfig):
    """Weights of `SRDKL`."""

    beta: float = setting(
        2.0,
        "weight of the representational loss",
        at_least=0,
        search=(0.1, 20),
        log=True,
        weight=True,
    )
    temperature: float = setting(4.0, "softens both softmaxes", above=0, search=(1, 20), log=True)


class SRDKL(SRD):
    """SRDwithKL beside the full cross-entropy."""

    Config = SRDKLConfig

    def representational(self, cross_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return kd_loss(cross_logits, teacher_logits, self.config.temperature)
