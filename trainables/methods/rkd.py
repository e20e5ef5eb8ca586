"""RKD: relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068).

Over the embeddings of a batch, with l_δ the Huber loss,

    ψ_D(i, j)    = ‖x_i − x_j‖ / μ,  μ the mean distance of all pairs i ≠ j           (eq. 5, 6)
    ψ_A(i, j, k) = cos ∠ x_i x_j x_k                                                  (eq. 8)
    L = CE + λ_D Σ l_δ(ψ_D(t), ψ_D(s)) + λ_A Σ l_δ(ψ_A(t), ψ_A(s))

Both sums are taken as means over pairs and triples. λ_D = 25, λ_A = 50 in the paper's
classification experiments (section 4.2: λ_RKD-D = 25, λ_RKD-A = 50).
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


def pair_distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances of all pairs over their mean, ``[B, B]``, zero on the diagonal."""
    squares = embeddings.square().sum(dim=1)
    squared = squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * embeddings @ embeddings.t()
    off = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    # The square root has no gradient at 0: the diagonal stays out of it.
    distances = torch.where(off, squared.clamp_min(EPSILON), 1.0).sqrt() * off
    mean = distances.sum() / off.sum().clamp_min(1)
    return distances / mean.clamp_min(EPSILON)


def pair_angles(embeddings: Tensor) -> Tensor:
    """Cosines at ``x_j`` between ``x_i`` and ``x_k``: ``[B (j), B (i), B (k)]``."""
    edges = embeddings.unsqueeze(0) - embeddings.unsqueeze(1)
    edges = F.normalize(edges, dim=2, eps=EPSILON)
    return edges @ edges.transpose(1, 2)


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
    student, teacher = student_embedding.float(), teacher_embedding.float()
    distance = F.smooth_l1_loss(pair_distances(student), pair_distances(teacher))
    angle = F.smooth_l1_loss(pair_angles(student), pair_angles(teacher))
    return distance, angle


@dataclass(frozen=True, kw_only=True, slots=True)
class RKDConfig:
    """Weights of `RKD`."""

    distance: float = setting(
        25.0, "λ_D, weight of the distances", at_least=0, search=(2, 200), log=True
    )
    angle: float = setting(50.0, "λ_A, weight of the angles", at_least=0, search=(5, 400), log=True)


class RKD(Term):
    """RKD-DA on the embeddings, beside the full cross-entropy."""

    needs = frozenset({"embedding"})
    Config = RKDConfig

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        distance, angle = rkd_loss(student.embedding, teacher.embedding)
        return self.config.distance * distance + self.config.angle * angle
