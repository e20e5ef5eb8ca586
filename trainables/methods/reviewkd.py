"""ReviewKD: knowledge review (Chen et al., CVPR 2021, arXiv 2104.09044).

Every stage of the student learns from the teacher's stages up to the same depth. Going from
the deepest stage to the earliest, the student's feature (after a 1x1 convolution) is fused with
the fused feature of the next deeper stage by attention (ABF, section 3.3) and compared with the
teacher's feature by the hierarchical context loss (HCL, section 3.3): the mean squared error at
the full size and, weighted 1/2, 1/4, 1/8, after average pooling to 4x4, 2x2 and 1x1, divided
by the sum of the weights.

    L = CE + w(e) · λ Σ_stages HCL(fused_s, f_t),   w(e) = min(e / 20, 1)

The pooled embedding is the deepest stage, a 1x1 map, as in the released code (CIFAR-100 part of
dvlab-research/ReviewKD), which has the warm-up and the at most 512 channels as well; ``embedding:
false`` leaves it out. A training of less than 20 epochs never reaches the full weight:
``warmup_fraction`` makes it a share of the training instead (the code's is 20 of 240, 0.083). The
code takes λ = 5 for most pairs of networks (0.6 and 1 for narrow ResNets, 8 for ShuffleNetV2).

Where we differ from the code:

- it matches the teacher's features before their last ReLU; we, as the network hands them on;
- it names the stages of every pair of networks by hand (of VGG and MobileNetV2 four, the first
  left out); we take all that pair by resolution;
- it hands a fused feature on after it was resized for the teacher; we, before. Where a student's
  maps are as large as its teacher's, that is the same;
- its w(e) counts whole epochs from 0; ours rises within epochs, too;
- it draws the weights of both convolutions by Kaiming's rule with a = 1; we, as torch does (√5);
- ``--use-kl`` adds KD; that is ``kd+reviewkd`` here;
- it reports the best test accuracy of all epochs; we, that after the last.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.methods.adaptors import BatchNorm
from trainables.methods.stages import pair_stages
from trainables.methods.term import Batch, Term, risen
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting

LEVELS = (4, 2, 1)


def hcl_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The hierarchical context loss of one stage.

    Args:
        student_features: ``[B, C, H, W]``.
        teacher_features: ``[B, C, H, W]``.

    Returns:
        A scalar, float32, at least 0.
    """
    student, teacher = student_features.float(), teacher_features.float()
    loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for level in LEVELS:
        if level >= min(student.shape[-2:]):
            continue
        weight /= 2
        ours, theirs = (F.adaptive_avg_pool2d(maps, level) for maps in (student, teacher))
        loss = loss + weight * F.mse_loss(ours, theirs)
        total += weight
    return loss / total


class AttentionFusion(nn.Module):
    """ABF: a stage's feature, fused with the one that comes from deeper down.

    Args:
        inputs: channels of the student's stage.
        middle: channels in which features are fused and handed on.
        outputs: channels of the teacher's stage.
        fuse: whether there is a deeper feature to fuse with.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, fuse: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), BatchNorm(middle))
        self.expand = nn.Sequential(
            nn.Conv2d(middle, outputs, 3, padding=1, bias=False), BatchNorm(outputs)
        )
        self.attention = nn.Conv2d(2 * middle, 2, 1) if fuse else None

    def forward(
        self, features: Tensor, deeper: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The feature for the teacher ``[B, outputs, *size]``, and the one to hand on."""
        reduced = self.reduce(features)
        if self.attention is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, reduced.shape[-2:], mode="nearest")
            weights = torch.sigmoid(self.attention(torch.cat([reduced, deeper], dim=1)))
            reduced = reduced * weights[:, :1] + deeper * weights[:, 1:]
        resized = reduced
        if tuple(reduced.shape[-2:]) != size:
            resized = F.interpolate(reduced, size, mode="nearest")
        return self.expand(resized), reduced


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewKDConfig:
    """Weights of `ReviewKD`."""

    weight: float = setting(
        5.0, "λ, weight of the review", at_least=0, search=(0.3, 10), log=True, weight=True
    )
    warmup: float = setting(20.0, "epochs over which the weight rises from 0", at_least=0)
    warmup_fraction: float | None = setting(
        None,
        "the same as a share of the training; none: by warmup",
        at_least=0,
        at_most=1,
        implied=(None,),
    )
    channels: int = setting(512, "at most so many channels are fused", at_least=1)
    embedding: bool = setting(True, "whether the pooled embedding is the deepest stage")


class ReviewKD(Term):
    """Knowledge review over all pairs of stages, beside the full cross-entropy."""

    needs = frozenset({"stages", "embedding"})
    Config = ReviewKDConfig

    def __init__(self, config: ReviewKDConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        if not config.embedding:
            self.needs = frozenset({"stages"})
        self.pairs = pair_stages(student, teacher)
        inputs = [student.stages[i][0] for i, _ in self.pairs]
        outputs = [teacher.stages[j][0] for _, j in self.pairs]
        if config.embedding:
            inputs.append(student.embedding)
            outputs.append(teacher.embedding)
        middle = min(config.channels, inputs[-1])
        self.fusions = nn.ModuleList(
            AttentionFusion(ours, middle, theirs, fuse=depth < len(inputs) - 1)
            for depth, (ours, theirs) in enumerate(zip(inputs, outputs, strict=True))
        )

    @property
    def depth(self) -> int | None:
        return None if self.config.embedding else self.pairs[-1][1] + 1

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours = [student.stages[i] for i, _ in self.pairs]
        theirs = [teacher.stages[j] for _, j in self.pairs]
        if self.config.embedding:
            ours.append(student.embedding[:, :, None, None])
            theirs.append(teacher.embedding[:, :, None, None])
        losses, deeper = [], None
        for fusion, features, wanted in zip(
            reversed(self.fusions), reversed(ours), reversed(theirs), strict=True
        ):
            fused, deeper = fusion(features, deeper, tuple(wanted.shape[-2:]))
            losses.append(hcl_loss(fused, wanted))
        rise = risen(batch, self.config.warmup, self.config.warmup_fraction)
        return rise * self.config.weight * torch.stack(losses).sum()
