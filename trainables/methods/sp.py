"""SP: similarity-preserving distillation (Tung & Mori, ICCV 2019, arXiv 1907.09682).

With A the features of a batch, flattened to ``[B, C·H·W]``, and G the row-normalised A Aᵀ,

    L = CE + γ · (1 / B²) Σ_(l, l') ‖G_t − G_s‖²_F

over pairs (l, l') of stages, γ = 3000. The paper's experiments match the last stage before the
pooling alone; ``stages: all`` sums over all pairs. RepDistiller, whose code the author checked,
has the same form, stage and γ.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.precision import full_precision
from trainables.methods.stages import pair_stages
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting


def similarity(features: Tensor) -> Tensor:
    """The row-normalised matrix of inner products within the batch, ``[B, B]`` float32."""
    flat = features.float().flatten(1)
    return F.normalize(flat @ flat.t(), dim=1)


@full_precision
def sp_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The mean squared difference of the two similarity matrices.

    Args:
        student_features: ``[B, ...]``; only the batch axes must agree.
        teacher_features: ``[B, ...]``.

    Returns:
        A scalar, float32, at least 0; 0 where the features agree up to rotation and one
        scale for all images.
    """
    return (similarity(student_features) - similarity(teacher_features)).square().mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class SPConfig:
    """Weights of `SP`."""

    gamma: float = setting(3000.0, "weight", at_least=0, search=(100, 10000), log=True, weight=True)
    stages: str = setting("last", "which pairs of stages", choices=("last", "all"))


class SP(Term):
    """Similarity preservation on feature maps, beside the full cross-entropy."""

    needs = frozenset({"stages"})
    Config = SPConfig

    def __init__(self, config: SPConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        pairs = pair_stages(student, teacher)
        self.pairs = pairs if config.stages == "all" else pairs[-1:]

    @property
    def depth(self) -> int | None:
        return self.pairs[-1][1] + 1

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        losses = [sp_loss(student.stages[i], teacher.stages[j]) for i, j in self.pairs]
        return self.config.gamma * torch.stack(losses).sum()
