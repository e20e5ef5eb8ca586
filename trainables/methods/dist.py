"""DIST: matching relations instead of values (Huang et al., NeurIPS 2022, arXiv 2205.10536).

With Y = softmax(z / τ), a ``[B, C]`` matrix for each network, and ρ the Pearson correlation,

    L_inter = 1 − (1/B) Σ_b ρ(Y_s[b, :], Y_t[b, :])        (eq. 7: classes of an image)
    L_intra = 1 − (1/C) Σ_c ρ(Y_s[:, c], Y_t[:, c])        (eq. 9: images of a class)
    L       = α · CE + β · τ² · L_inter + γ · τ² · L_intra (eq. 10)

α = 1, β = γ = 2, τ = 4 on CIFAR-100 and τ = 1 on ImageNet. The text of the paper has no τ²;
the released code multiplies by it, and the published numbers come from there: we follow it.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs
from trainables.settings import setting

EPSILON = 1e-8


def pearson_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 − the mean Pearson correlation of matching rows.

    Args:
        first, second: ``[rows, columns]``.

    Returns:
        A scalar in [0, 2]. A constant row correlates with nothing (0).
    """
    first = first - first.mean(dim=1, keepdim=True)
    second = second - second.mean(dim=1, keepdim=True)
    return 1 - F.cosine_similarity(first, second, dim=1, eps=EPSILON).mean()


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """τ² · L_inter and τ² · L_intra.

    Args:
        student_logits, teacher_logits: ``[B, classes]``.
        temperature: τ > 0.

    Returns:
        Two scalars, float32; both 0 where the logits agree (up to a shift per image), except
        that L_intra has no meaning for a batch of one and is then τ².
    """
    student = F.softmax(student_logits.float() / temperature, dim=1)
    teacher = F.softmax(teacher_logits.float() / temperature, dim=1)
    inter = pearson_distance(student, teacher)
    intra = pearson_distance(student.t(), teacher.t())
    return temperature**2 * inter, temperature**2 * intra


@dataclass(frozen=True, kw_only=True, slots=True)
class DISTConfig:
    """Weights of `DIST`."""

    beta: float = setting(
        2.0,
        "weight of the relation between classes",
        at_least=0,
        search=(0.2, 10),
        log=True,
        weight=True,
    )
    gamma: float = setting(
        2.0,
        "weight of the relation between images",
        at_least=0,
        search=(0.2, 10),
        log=True,
        weight=True,
    )
    temperature: float = setting(
        4.0, "τ, softens both softmaxes", above=0, search=(1, 10), log=True
    )


class DIST(Term):
    """DIST as a term beside the full cross-entropy (α = 1)."""

    needs = frozenset({"logits"})
    Config = DISTConfig

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        inter, intra = dist_loss(student.logits, teacher.logits, self.config.temperature)
        return self.config.beta * inter + self.config.gamma * intra
