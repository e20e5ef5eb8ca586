"""AT: activation-based attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928).

The attention map of a feature map F with C channels is Q(F) = vec( (1/C) Σ_c |F_c|^p ), p = 2
(F²_sum of section 3.1, up to a factor that the normalisation removes), divided by its L2 norm
per image: Q̂. With a student map Q̂_S and a teacher map Q̂_T per pair of stages,

    paper, eq. (2):   L = CE + (β/2) Σ_j ‖Q̂_S,j − Q̂_T,j‖_2,   β = 10³ / (H·W) per image
    "mean":           L = CE + β Σ_j mean_{b,hw} (Q̂_S,j − Q̂_T,j)²,   β = 10³

We follow the paper (section 4.1.1 gives its β); the released code and most later comparisons
square and average instead: ``form: mean``. Of maps of different sizes the larger one is
average-pooled to the smaller (adaptive). Code that does so pools the features (RepDistiller);
here it is the map that is pooled, because a map is what is compared.

``stages`` chooses among the pairs. Hernandez et al. (arXiv 2503.13008, 2506.14440) match the
output of one block of MobileNetV2 with γ = 0.8 times the mean square: for ``mobilenetv2`` and
``mobilenetv2-minus5``, where it is an 8x8 map, that is ``at.form: mean``, ``at.beta: 0.8``,
``at.stages: last`` (the number "2" where the student keeps its 4x4 stage). They take the tenth
of the 19 features, with 64 channels; a stage here ends with the last feature of its resolution.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.stages import chosen_pairs
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting


def attention_map(
    features: Tensor, power: float = 2.0, size: tuple[int, int] | None = None
) -> Tensor:
    """Q̂: the channel mean of |F|^p, pooled to ``size``, flattened, with unit L2 norm.

    Args:
        features: ``[B, C, H, W]``.
        power: p >= 1.
        size: ``(H', W')`` to average-pool to; None keeps the map.

    Returns:
        ``[B, H'·W']`` float32, non-negative.
    """
    return unit_map(features.float().abs().pow(power).mean(dim=1, keepdim=True), size)


def unit_map(maps: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Maps ``[B, 1, H, W]`` pooled to ``size``, flattened, with unit L2 norm; zero stays zero."""
    if size is not None and size != tuple(maps.shape[-2:]):
        maps = F.adaptive_avg_pool2d(maps, size)
    return F.normalize(maps.flatten(1), dim=1)


def smaller(student_features: Tensor, teacher_features: Tensor) -> tuple[int, int]:
    """The lesser height and the lesser width of maps ``[B, C, H, W]`` of two networks."""
    height = min(student_features.shape[-2], teacher_features.shape[-2])
    return height, min(student_features.shape[-1], teacher_features.shape[-1])


def at_loss(
    student_features: Tensor, teacher_features: Tensor, power: float = 2.0, form: str = "paper"
) -> Tensor:
    """The distance of the two attention maps of one pair of stages, without β.

    Args:
        student_features: ``[B, C_s, H_s, W_s]``.
        teacher_features: ``[B, C_t, H_t, W_t]``.
        power: p of the attention map.
        form: ``"paper"``: ½ ‖·‖_2 / (H·W), mean over images; ``"mean"``: mean square over
            images and positions.

    Returns:
        A scalar, float32, at least 0; 0 where the maps agree.
    """
    height, width = size = smaller(student_features, teacher_features)
    difference = attention_map(student_features, power, size) - attention_map(
        teacher_features, power, size
    )
    if form == "mean":
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, dim=1).mean() / (2 * height * width)


@dataclass(frozen=True, kw_only=True, slots=True)
class ATConfig:
    """Weights of `AT`."""

    beta: float = setting(
        1000.0,
        "weight of the attention loss",
        at_least=0,
        search=(100, 10000),
        log=True,
        weight=True,
    )
    power: float = setting(2.0, "p, the power of the activations", at_least=1)
    form: str = setting(
        "paper", "the paper's norm, or the released code's mean square", choices=("paper", "mean")
    )
    stages: str = setting(
        "all", "which pairs of stages: all, last, or numbers from 0 joined by commas"
    )


class AT(Term):
    """Attention transfer over pairs of stages.

    Raises:
        UserError: the networks have no such pair of stages.
    """

    needs = frozenset({"stages"})
    Config = ATConfig

    def __init__(self, config: ATConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        self.pairs = chosen_pairs("at.stages", config.stages, student, teacher)

    @property
    def depth(self) -> int | None:
        return self.pairs[-1][1] + 1

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        losses = [
            at_loss(student.stages[i], teacher.stages[j], self.config.power, self.config.form)
            for i, j in self.pairs
        ]
        return self.config.beta * torch.stack(losses).sum()
