"""SWA: sensitivity weighted attribution maps (Park et al., NeurIPS 2020, arXiv 2010.15054).

With c* the class that the teacher holds for the likeliest, of each image, and of both networks

    a_k = Σ_ij ∂ y_c* / ∂ f_k,ij          S = ReLU( Σ_k a_k f_k )

(Grad-CAM with a sum over positions), a student's map is held against the teacher's, which is fixed:

    L = CE + w · mean_{b,hw} ( S_S / ‖S_S‖ − S_T / ‖S_T‖ )²,   w = 100

The gradient goes through the student's a_k as well. Where a linear classifier reads the last stage,
averaged or flattened, with or without maxima of regions before, Σ_ij ∂y/∂f_k,ij is the sum of its
weights of channel k: exact, and without a second backward pass. At other stages it is autograd's,
whose sum over a batch in training mode takes in what BatchNorm makes of the other images.

With dropout before the classifier (VGG above 32 pixels) the released code's a_k of the student are
those under the step's mask; the sums of weights are the map of the network as it is used, and the
mean of the others. That code takes VGG's map behind the last pooling; a stage here ends before it
(where the paper's own Grad-CAM looks), with the same a_k. Of maps of different sizes the larger one
is average-pooled to the smaller. A map that is zero everywhere stays zero: the loss is then the
other's mean square, and no gradient leads on.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainables.methods.at import smaller, unit_map
from trainables.methods.precision import full_precision
from trainables.methods.stages import chosen_pairs
from trainables.methods.term import Batch, Term
from trainables.models.features import CLASS_WEIGHTS, STAGE_GRADIENT, class_weights
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.settings import setting


def head_sensitivities(weights: Tensor, classes: Tensor, channels: int) -> Tensor:
    """a_k of a linear classifier on the last stage.

    Args:
        weights: ``[classes, D]``, D a multiple of the number of channels, channel by channel.
        classes: c*, ``[B]``.
        channels: C of the stage.

    Returns:
        ``[B, C]`` float32.
    """
    return weights.float().unflatten(1, (channels, -1)).sum(2)[classes]


@full_precision
def sensitivity_map(
    features: Tensor, sensitivities: Tensor, size: tuple[int, int] | None = None
) -> Tensor:
    """S, pooled to ``size``, flattened, with unit L2 norm; zero where S is.

    Args:
        features: f, ``[B, C, H, W]``.
        sensitivities: a, ``[B, C]`` float32.
        size: ``(H', W')`` to average-pool to; None keeps the map.

    Returns:
        ``[B, H'·W']`` float32, non-negative.
    """
    weighted = sensitivities.unsqueeze(1) @ features.float().flatten(2)
    return unit_map(weighted.relu().unflatten(2, features.shape[2:]), size)


def swa_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    student_sensitivities: Tensor,
    teacher_sensitivities: Tensor,
) -> Tensor:
    """The mean squared difference of the two maps of one pair of stages.

    Args:
        student_features: ``[B, C_s, H_s, W_s]``.
        teacher_features: ``[B, C_t, H_t, W_t]``.
        student_sensitivities: a_k of the student, ``[B, C_s]`` float32.
        teacher_sensitivities: ``[B, C_t]`` float32.

    Returns:
        A scalar, float32, at least 0; 0 where the maps agree up to one factor per image.
    """
    size = smaller(student_features, teacher_features)
    ours = sensitivity_map(student_features, student_sensitivities, size)
    return (ours - sensitivity_map(teacher_features, teacher_sensitivities, size)).square().mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class SWAConfig:
    """Weights of `SWA`."""

    weight: float = setting(
        100.0, "w, of the loss", at_least=0, search=(10, 1000), log=True, weight=True
    )
    stages: str = setting(
        "last", "which pairs of stages: all, last, or numbers from 0 joined by commas"
    )


class SWA(Term):
    """Sensitivity weighted attribution matching over pairs of stages.

    Raises:
        UserError: the networks have no such pair of stages.
    """

    needs = frozenset({"logits", "stages"})
    raw_logits = True  # only which is the greatest
    any_task = True
    Config: ClassVar[type] = SWAConfig
    key: ClassVar[str] = "swa"

    weights: Tensor

    def __init__(self, config: SWAConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        self.pairs = chosen_pairs(f"{self.key}.stages", config.stages, student, teacher)
        self.sources = [(_source(student, i), _source(teacher, j)) for i, j in self.pairs]
        ours, theirs = (frozenset(side) for side in zip(*self.sources, strict=True))
        self.student_needs = ours
        self.needs = type(self).needs | (theirs - {CLASS_WEIGHTS})  # those are `attach`ed

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        # Not a part of the state: the teacher's file has it.
        self.register_buffer("weights", class_weights(teacher).detach(), persistent=False)

    def loss(self, ours: Tensor, theirs: Tensor, own: Tensor, taught: Tensor) -> Tensor:
        """Of one pair of stages, without its weight; arguments as for `swa_loss`."""
        return swa_loss(ours, theirs, own, taught)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        classes, losses = teacher.logits.argmax(1), []
        for (i, j), (own, taught) in zip(self.pairs, self.sources, strict=True):
            ours, theirs = student.stages[i], teacher.stages[j]
            weights = student.features.get(CLASS_WEIGHTS)
            sensitivities = (
                _sensitivities(own, student, ours, weights, classes),
                _sensitivities(taught, teacher, theirs, self.weights, classes),
            )
            losses.append(self.loss(ours, theirs, *sensitivities))
        return self.config.weight * torch.stack(losses).sum()


def _source(shapes: Shapes, stage: int) -> str:
    """The key of what the sensitivities of a stage are found from."""
    last = stage == len(shapes.stages) - 1
    linear = last and (shapes.pooled or shapes.flattened)
    return CLASS_WEIGHTS if linear else f"{STAGE_GRADIENT}{stage}"


def _sensitivities(
    source: str, outputs: Outputs, stage: Tensor, weights: Tensor | None, classes: Tensor
) -> Tensor:
    """a_k of a network at one of its stages, ``[B, C]`` float32."""
    if source != CLASS_WEIGHTS:
        return outputs.features[source].float().sum((2, 3))
    assert weights is not None
    return head_sensitivities(weights, classes, stage.shape[1])
