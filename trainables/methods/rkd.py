"""RKD: relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068).

Over the embeddings of a batch, with l_δ the Huber loss,

    ψ_D(i, j)    = ‖x_i − x_j‖ / μ,  μ the mean distance of all pairs i ≠ j    (section 3.2.1)
    ψ_A(i, j, k) = cos ∠ x_i x_j x_k                                           (section 3.2.2)
    L = CE + λ_D Σ l_δ(ψ_D(t), ψ_D(s)) + λ_A Σ l_δ(ψ_A(t), ψ_A(s))

with δ = 1. The paper sums over tuples of distinct images; like the released code we average over
all B² pairs and B³ triples, in which repeated images count as 0. λ_A = 2 λ_D as in the paper's
metric learning (1 and 2, section 4.1, where there is no cross-entropy); beside one, comparisons
of classifiers take 25 and 50 (RepDistiller), our defaults.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.precision import full_precision
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs
from trainables.settings import setting

EPSILON = 1e-12


def relations(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """ψ_D and ψ_A of a batch.

    Args:
        embeddings: ``[B, D]`` float32.

    Returns:
        Distances over their mean, ``[B, B]``, and the cosines at ``x_j`` between ``x_i`` and
        ``x_k``, ``[B (j), B (i), B (k)]``. Where two images coincide both are 0, without a
        gradient: no direction is better than another.
    """
    edges = embeddings.unsqueeze(0) - embeddings.unsqueeze(1)
    lengths = torch.linalg.vector_norm(edges, dim=2)
    pairs = max(len(embeddings) * (len(embeddings) - 1), 1)
    distances = lengths / (lengths.sum() / pairs).clamp_min(EPSILON)
    directions = edges / torch.where(lengths > EPSILON, lengths, torch.inf).unsqueeze(2)
    return distances, directions @ directions.transpose(1, 2)


@full_precision
def rkd_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> tuple[Tensor, Tensor]:
    """The distance-wise and the angle-wise loss.

    Args:
        student_embedding: ``[B, D_s]``; the widths may differ.
        teacher_embedding: ``[B, D_t]``.

    Returns:
        Two scalars, float32, at least 0; both 0 where the embeddings agree up to scale,
        rotation and shift.
    """
    student, teacher = relations(student_embedding.float()), relations(teacher_embedding.float())
    return F.smooth_l1_loss(student[0], teacher[0]), F.smooth_l1_loss(student[1], teacher[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class RKDConfig:
    """Weights of `RKD`."""

    distance: float = setting(
        25.0, "λ_D, weight of the distances", at_least=0, search=(2, 200), log=True, weight=True
    )
    angle: float = setting(
        50.0, "λ_A, weight of the angles", at_least=0, search=(5, 400), log=True, weight=True
    )


class RKD(Term):
    """RKD-DA on the embeddings, beside the full cross-entropy."""

    needs = frozenset({"embedding"})
    Config = RKDConfig

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        distance, angle = rkd_loss(student.embedding, teacher.embedding)
        return self.config.distance * distance + self.config.angle * angle
