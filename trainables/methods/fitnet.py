"""FitNet: hints from a middle layer (Romero et al., ICLR 2015, arXiv 1412.6550).

With h the teacher's feature at the hint, g the student's at the guided layer and r a
convolutional regressor,

    L_HT = ½ ‖h − r(g)‖²

(section 2.2). The paper trains in two stages: first the student up to the guided layer on L_HT
alone, then the whole student by KD (``schedule: two_stage``; join it with kd: ``kd+fitnet``).
Later comparisons (RepDistiller) train in one, L = CE + β · mean (h − r(g))², β = 100
(``one_stage``, the default, since only this kind has a loss weight to search), with the middle
stage as hint. Both average over the elements here, so that β means the same for every size of
map.

r is a 1x1 convolution with BatchNorm, and the larger map is pooled to the smaller. r and h should
end in the same non-linearity (section 2.2): as hints may stand before a ReLU, r has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.errors import UserError
from trainables.methods.adaptors import StageAdaptor
from trainables.methods.phases import THROUGHOUT, Stretch
from trainables.methods.stages import pair_stages
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting


def fitnet_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """The mean squared difference of the regressed student feature and the hint.

    Args:
        guided: r(g), ``[B, C, H, W]``.
        hint: h, ``[B, C, H, W]``.

    Returns:
        A scalar, float32, at least 0.
    """
    return F.mse_loss(guided.float(), hint.float())


@dataclass(frozen=True, kw_only=True, slots=True)
class FitNetConfig:
    """Weights of `FitNet`."""

    beta: float = setting(
        100.0, "weight of the hint", at_least=0, search=(1, 1000), log=True, weight=True
    )
    hint: int | None = setting(
        None, "which pair of stages, from 0; none: the middle one", at_least=0
    )
    schedule: str = setting(
        "one_stage",
        "train with the hint throughout, or first on the hint alone",
        choices=("one_stage", "two_stage"),
    )
    hint_fraction: float = setting(
        0.2, "of schedule two_stage: share of the epochs on the hint alone", above=0, at_most=0.9
    )


class FitNet(Term):
    """Hint-based training.

    Raises:
        UserError: the networks have no such pair of stages.
    """

    needs = frozenset({"stages"})
    Config = FitNetConfig

    def __init__(self, config: FitNetConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        pairs = pair_stages(student, teacher)
        index = (len(pairs) - 1) // 2 if config.hint is None else config.hint
        if index >= len(pairs):
            raise UserError(
                f"fitnet.hint: the networks have {len(pairs)} pairs of stages, counted from 0; "
                f"got {index}"
            )
        self.pair = pairs[index]
        self.regressor = StageAdaptor(
            student.stages[self.pair[0]], teacher.stages[self.pair[1]], rectify=False
        )

    @property
    def depth(self) -> int | None:
        return self.pair[1] + 1

    @property
    def stretches(self) -> Sequence[Stretch]:
        if self.config.schedule == "one_stage":
            return THROUGHOUT
        return Stretch(self.config.hint_fraction, "alone"), Stretch(1.0, "not")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        guided = self.regressor(student.stages[self.pair[0]])
        hint = self.regressor.match(teacher.stages[self.pair[1]])
        loss: Tensor = self.config.beta * fitnet_loss(guided, hint)
        return loss
