"""KD: matching softened probabilities (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

    L = (1 - α) · CE(z_s, y) + α · T² · (1/B) Σ_b KL( softmax(z_t,b / T) ‖ softmax(z_s,b / T) )

The factor T² keeps the gradient's size when T changes (section 2 of the paper). The paper
leaves the weights open; α = 0.9 and T = 4 are the usual choice on CIFAR.

``form: bernoulli`` is for networks whose classes are independent yes-or-no questions, as in Park
et al. (NeurIPS 2020, arXiv 2010.15054), who distil multi-label networks with α = 0.9 and T = 4:
σ(z / T) takes the softmax's place, and the divergence is the mean over images and classes of the
Bernoulli distributions'. Their code bounds the logarithm by adding 1e-7 to the probability; here
it is exact. A multi-label task asks such questions: there both forms are this one.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² times the Kullback-Leibler divergence from teacher to student, mean over the batch.

    Args:
        student_logits: ``[B, classes]``.
        teacher_logits: ``[B, classes]``, no gradient is wanted.
        temperature: T > 0 divides both logits.

    Returns:
        A scalar in nats times T², float32; at least 0, and 0 where both softmaxes agree.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def bernoulli_kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² times KL( Bernoulli(σ(z_t / T)) ‖ Bernoulli(σ(z_s / T)) ), mean over images and classes.

    Args:
        student_logits: ``[B, classes]``, of independent classes.
        teacher_logits: ``[B, classes]``, no gradient is wanted.
        temperature: T > 0 divides both logits.

    Returns:
        A scalar in nats times T², float32; at least 0, and 0 where the logits agree. For large T
        it tends to the mean of (z_s − z_t)² / 8.
    """
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return temperature**2 * (yes + no).mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class KDConfig:
    """Weights of `KD`."""

    alpha: float = setting(
        0.9, "share of KD against the labels", at_least=0, at_most=1, search=(0.1, 1.0), weight=True
    )
    temperature: float = setting(4.0, "softens both networks", above=0, search=(1, 20), log=True)
    form: str = setting(
        "softmax",
        "one softmax over the classes, or a yes-or-no question for each of them",
        choices=("softmax", "bernoulli"),
    )


class KD(Term):
    """Hinton's distillation as a term; takes the share α from the cross-entropy."""

    needs = frozenset({"logits"})
    any_task = True
    Config = KDConfig

    def __init__(self, config: KDConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        self.raw_logits = config.form == "bernoulli"

    @property
    def ce_share(self) -> float:
        return float(self.config.alpha)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        alpha, temperature = self.config.alpha, self.config.temperature
        if self.config.form == "bernoulli":
            return alpha * bernoulli_kd_loss(student.logits, teacher.logits, temperature)
        answers = batch.task.answers
        return alpha * kd_loss(answers(student.logits), answers(teacher.logits), temperature)
