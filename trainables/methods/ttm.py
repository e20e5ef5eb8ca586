"""TTM and WTTM: transformed teacher matching (Zheng & Yang, ICLR 2024, arXiv 2402.11148).

The temperature softens the teacher alone, which is a power transform with γ = 1 / T:

    p^γ_t = softmax(z_t / T) = p_t^γ / U_γ(p_t),   U_γ(p) = Σ_c p_c^γ
    L_TTM  = CE + β · (1/B) Σ_b KL( p^γ_t ‖ p_s )                               (section 3)
    L_WTTM = CE + β · (1/B) Σ_b U_γ(p_t) · KL( p^γ_t ‖ p_s )                    (section 4)

The student has no temperature, so there is no T² as in KD. The weight U_γ, the power sum, goes
from 1 for a sure teacher to C^(1 − γ) for a uniform one; the released code, too, divides it by
nothing. γ and β are chosen per pair of networks; our defaults are those of the code's examples
for VGG-13 to VGG-8: γ = 0.1, β = 45 for TTM, and γ = 0.2, β = 4 for WTTM (there beside CRD).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs
from trainables.settings import setting


def ttm_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, weighted: bool = False
) -> Tensor:
    """KL from the transformed teacher to the plain student, mean over the batch.

    Args:
        student_logits, teacher_logits: ``[B, classes]``.
        temperature: T > 0 of the teacher; γ = 1 / T.
        weighted: whether each image has the weight U_γ (WTTM).

    Returns:
        A scalar in nats, float32, at least 0.
    """
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    student = F.log_softmax(student_logits.float(), dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    if weighted:
        divergence = divergence * power_sum(teacher_logits, temperature)
    return divergence.mean()


def power_sum(logits: Tensor, temperature: float) -> Tensor:
    """U_γ = Σ_c softmax(logits)_c^γ with γ = 1 / T, ``[B]`` float32."""
    return torch.logsumexp(F.log_softmax(logits.float(), dim=1) / temperature, dim=1).exp()


@dataclass(frozen=True, kw_only=True, slots=True)
class TTMConfig:
    """Weights of `TTM`."""

    beta: float = setting(45.0, "weight", at_least=0, search=(1, 100), log=True, weight=True)
    temperature: float = setting(
        10.0, "1 / γ, softens the teacher alone", above=0, search=(1, 20), log=True
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WTTMConfig(TTMConfig):
    """Weights of `WTTM`."""

    beta: float = setting(4.0, "weight", at_least=0, search=(0.2, 50), log=True, weight=True)
    temperature: float = setting(
        5.0, "1 / γ, softens the teacher alone", above=0, search=(1, 20), log=True
    )


class TTM(Term):
    """TTM beside the full cross-entropy."""

    needs = frozenset({"logits"})
    Config = TTMConfig
    weighted = False

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        loss = ttm_loss(
            student.logits, teacher.logits, self.config.temperature, weighted=self.weighted
        )
        return self.config.beta * loss


class WTTM(TTM):
    """WTTM beside the full cross-entropy."""

    Config = WTTMConfig
    weighted = True
