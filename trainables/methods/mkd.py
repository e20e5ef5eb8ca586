"""MKD: matching the mean of several teachers' softened probabilities.

    p_b = Σ_k w_k,b · softmax(z_k,b / T),    Σ_k w_k,b = 1
    L = (1 - α) · CE(z_s, y) + α · T² · (1/B) Σ_b KL( p_b ‖ softmax(z_s,b / T) )

``weighting: equal`` has w = 1/K (You, Xu, Xu, Tao: "Learning from Multiple Teacher Networks", KDD
2017). ``weighting: confidence`` trusts a teacher the more, the smaller its own cross-entropy L_k,b
with the image's label is: w_k = (1 − softmax(L)_k) / (K − 1) (Zhang, Chen, Wang:
"Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, arXiv 2201.00007, section
2.1; its loss of features is not here). Both papers sum the divergences from each teacher, or
cross-entropies with it, in place of the one from their mean: that differs by what no student
changes, so that gradients are the same, and here the loss is 0 where the student says the mean.
As `kd`, the term takes the share α from the cross-entropy. Of one teacher it is `kd`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs
from trainables.settings import setting


def mkd_loss(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """T² times the divergence from the teachers' mean to the student, mean over the batch.

    Args:
        student_logits: ``[B, classes]``.
        teacher_logits: of each of K teachers, ``[B, classes]``; no gradient is wanted.
        temperature: T > 0 divides all logits.
        weights: of the teachers for every image, ``[K, B]``, each image's sum is 1; None: equal.

    Returns:
        A scalar in nats times T², float32; at least 0, and 0 where the student says the mean.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    said = torch.stack([F.log_softmax(z.float() / temperature, dim=1) for z in teacher_logits])
    if weights is None:
        weights = said.new_full(said.shape[:2], 1 / len(said))
    mean = (said + weights.log().unsqueeze(2)).logsumexp(0)
    return temperature**2 * F.kl_div(student, mean, reduction="batchmean", log_target=True)


def confidence(teacher_logits: Sequence[Tensor], shares: Tensor) -> Tensor:
    """How far each teacher is trusted on each image: w_k = (1 − softmax(L)_k) / (K − 1).

    Args:
        teacher_logits: of each of K teachers, ``[B, classes]``.
        shares: of every class in the label of each image, ``[B, classes]``.

    Returns:
        ``[K, B]`` float32, at least 0; each image's sum is 1.
    """
    losses = torch.stack(
        [F.cross_entropy(z.float(), shares, reduction="none") for z in teacher_logits]
    )
    return (1 - losses.softmax(0)) / (len(losses) - 1) if len(losses) > 1 else losses.softmax(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MKDConfig:
    """Weights of `MKD`."""

    alpha: float = setting(
        0.9,
        "share of MKD against the labels",
        at_least=0,
        at_most=1,
        search=(0.1, 1.0),
        weight=True,
    )
    temperature: float = setting(4.0, "softens all networks", above=0, search=(1, 20), log=True)
    weighting: str = setting(
        "equal",
        "of the teachers: equal, or by their confidence in an image's label",
        choices=("equal", "confidence"),
    )


class MKD(Term):
    """Hinton's distillation from the mean of all teachers that a trial has."""

    needs = frozenset({"logits"})
    any_task = True
    reads_all = True
    Config = MKDConfig

    @property
    def one_of_many(self) -> bool:
        return str(self.config.weighting) == "confidence"

    @property
    def ce_share(self) -> float:
        return float(self.config.alpha)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        said = [outputs.logits for outputs in (teacher, *batch.teachers.values())]
        trusted = self.config.weighting == "confidence"
        weights = confidence(said, batch.shares(said[0].shape[1])) if trusted else None
        answers, temperature = batch.task.answers, self.config.temperature
        taught = [answers(logits) for logits in said]
        return self.config.alpha * mkd_loss(answers(student.logits), taught, temperature, weights)
