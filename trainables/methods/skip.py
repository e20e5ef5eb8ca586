"""Skip: distillation of one shortcut (Boulaouaney, "Skip-Connection-KD-with-ECA", GitHub 2023).

The method of a repository that accompanies a master's thesis; no paper describes it, and it
builds on another repository, generalMG's "ResNet-Skip-Connection-KD". With S the shortcut of a
down-sampling block as it enters the sum, projected and before addition and ReLU,

    L = CE + α · mean (S_s − S_t)²

over images, channels and positions; α = 0.3. The repository takes the block that begins the last
stage (ResNet-18, 34), or the third of four in networks of bottlenecks (``skip.stage: 2``), and
needs shortcuts of one shape. Here it is the last pair of stages by default.

Where the shapes agree, the shortcuts are compared as they are. Elsewhere a 1x1 convolution with
BatchNorm, without ReLU since a shortcut has none, brings the student's channels to the teacher's,
and the larger map is pooled to the smaller. A network without projecting shortcuts (VGG,
MobileNetV2, timm, torchvision) gives the feature map of the stage in their place.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.errors import UserError
from trainables.methods.adaptors import StageAdaptor
from trainables.methods.stages import pair_stages
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting


def skip_loss(student_shortcut: Tensor, teacher_shortcut: Tensor) -> Tensor:
    """The mean squared difference of two shortcuts of one shape.

    Args:
        student_shortcut: S_s, ``[B, C, H, W]``, adapted where the networks differ.
        teacher_shortcut: S_t, ``[B, C, H, W]``.

    Returns:
        A scalar, float32, at least 0; 0 where they agree.
    """
    return F.mse_loss(student_shortcut.float(), teacher_shortcut.float())


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipConfig:
    """Weights of `Skip`."""

    alpha: float = setting(
        0.3, "weight of the shortcut", at_least=0, search=(0.03, 10), log=True, weight=True
    )
    stage: int | None = setting(
        None, "which pair of stages, from 0; none: the last one", at_least=0
    )


class Skip(Term):
    """Skip-connection distillation beside the full cross-entropy.

    Raises:
        UserError: the networks have no such pair of stages.
    """

    needs = frozenset({"shortcuts"})
    Config = SkipConfig

    def __init__(self, config: SkipConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        if not teacher.shortcuts:
            self.needs = frozenset({"stages"})
        pairs = pair_stages(student, teacher)
        index = len(pairs) - 1 if config.stage is None else config.stage
        if index >= len(pairs):
            raise UserError(
                f"skip.stage: the networks have {len(pairs)} pairs of stages, counted from 0; "
                f"got {index}"
            )
        self.pair = pairs[index]
        ours = (student.shortcuts or student.stages)[self.pair[0]]
        theirs = (teacher.shortcuts or teacher.stages)[self.pair[1]]
        self.adaptor = None if ours == theirs else StageAdaptor(ours, theirs, rectify=False)

    @property
    def depth(self) -> int | None:
        return self.pair[1] + 1

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours = (student.shortcuts or student.stages)[self.pair[0]]
        theirs = (teacher.shortcuts or teacher.stages)[self.pair[1]]
        if self.adaptor is not None:
            ours, theirs = self.adaptor(ours), self.adaptor.match(theirs)
        loss: Tensor = self.config.alpha * skip_loss(ours, theirs)
        return loss
