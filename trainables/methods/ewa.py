"""EWA: equally weighted attribution maps (Park et al., NeurIPS 2020, arXiv 2010.15054).

The map of an image is S = (1/C) Σ_c f_c², every channel alike, and a student's map is held against
the teacher's by the mean over images and positions of the squared difference,

    L = CE + w · mean_{b,hw} ( S_S / ‖S_S‖ − S_T / ‖S_T‖ )²,   w = 100

It is attention transfer with p = 2 and ``at.form: mean``, under the paper's weight and at the last
stage; ``stages`` chooses others. Of maps of different sizes the larger one is average-pooled to the
smaller. Their code takes the map behind VGG's last pooling; a stage here ends before it. A map that
is zero everywhere stays zero: the loss is then the other's mean square, and no gradient leads on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.methods.at import at_loss
from trainables.methods.stages import chosen_pairs
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting


def ewa_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The mean squared difference of the two maps of one pair of stages.

    Args:
        student_features: ``[B, C_s, H_s, W_s]``.
        teacher_features: ``[B, C_t, H_t, W_t]``.

    Returns:
        A scalar, float32, at least 0; 0 where the maps agree up to one factor per image.
    """
    return at_loss(student_features, teacher_features, 2.0, "mean")


@dataclass(frozen=True, kw_only=True, slots=True)
class EWAConfig:
    """Weights of `EWA`."""

    weight: float = setting(
        100.0, "w, of the loss", at_least=0, search=(10, 1000), log=True, weight=True
    )
    stages: str = setting(
        "last", "which pairs of stages: all, last, or numbers from 0 joined by commas"
    )


class EWA(Term):
    """Equally weighted attribution matching over pairs of stages.

    Raises:
        UserError: the networks have no such pair of stages.
    """

    needs = frozenset({"stages"})
    Config = EWAConfig

    def __init__(self, config: EWAConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        self.pairs = chosen_pairs("ewa.stages", config.stages, student, teacher)

    @property
    def depth(self) -> int | None:
        return self.pairs[-1][1] + 1

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        losses = [ewa_loss(student.stages[i], teacher.stages[j]) for i, j in self.pairs]
        return self.config.weight * torch.stack(losses).sum()
