"""DKD: decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679).

With p the softmax of z / T, p_y the probability of the target class y, b = (p_y, 1 − p_y), and
q the softmax over the other C − 1 classes alone,

    TCKD = KL( b_t ‖ b_s ),   NCKD = KL( q_t ‖ q_s )
    L = CE + w(e) · T² · (α TCKD + β NCKD)

means over the batch (section 3). The classical KD of an image is TCKD + (1 − p_y,t) · NCKD:
there the teacher's confidence suppresses the second part. The T² and the linear warm-up
w(e) = min(e / 20, 1) over the first epochs are the released code's, whose e is the number of
the epoch; here it rises within epochs, too. A training of less than 20 epochs never reaches the
full weight: ``warmup_fraction`` makes it a share of the training instead (the code's is 20 of 240,
0.083). Defaults α = 1, β = 8, T = 4; the code has β = 2, 6 or 8 by the pair of networks. Of two
classes there is one other: NCKD is 0.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Batch, Term, risen
from trainables.models.outputs import Outputs
from trainables.settings import setting


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """T² · TCKD and T² · NCKD, means over the batch.

    Args:
        student_logits, teacher_logits: ``[B, classes]``, at least two classes.
        target: class indices ``[B]``.
        temperature: T > 0.

    Returns:
        Two scalars, float32, at least 0; both 0 where the softmaxes agree.
    """
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    target = target.unsqueeze(1)
    binary = F.kl_div(
        _binary_log(student, target),
        _binary_log(teacher, target),
        reduction="batchmean",
        log_target=True,
    )
    others = F.kl_div(
        _others_log(student, target),
        _others_log(teacher, target),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * binary, temperature**2 * others


def _binary_log(logits: Tensor, target: Tensor) -> Tensor:
    """log (p_y, 1 − p_y), ``[B, 2]``, without cancellation where p_y is near 1."""
    everything = torch.logsumexp(logits, dim=1, keepdim=True)
    right = logits.gather(1, target)
    wrong = torch.logsumexp(_without(logits, target), dim=1, keepdim=True)
    return torch.cat([right - everything, wrong - everything], dim=1)


def _others_log(logits: Tensor, target: Tensor) -> Tensor:
    """log q over the classes that are not the target, ``[B, classes − 1]``."""
    return F.log_softmax(_without(logits, target), dim=1)


def _without(logits: Tensor, target: Tensor) -> Tensor:
    """The logits of the other classes, ``[B, classes − 1]``, in order."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, others + (others >= target).long())


@dataclass(frozen=True, kw_only=True, slots=True)
class DKDConfig:
    """Weights of `DKD`."""

    alpha: float = setting(
        1.0, "weight of TCKD", at_least=0, search=(0.2, 5), log=True, weight=True
    )
    beta: float = setting(
        8.0, "weight of NCKD", at_least=0, search=(0.5, 12), log=True, weight=True
    )
    temperature: float = setting(4.0, "softens both softmaxes", above=0, search=(1, 10), log=True)
    warmup: float = setting(20.0, "epochs over which the weight rises from 0", at_least=0)
    warmup_fraction: float | None = setting(
        None,
        "the same as a share of the training; none: by warmup",
        at_least=0,
        at_most=1,
        implied=(None,),
    )


class DKD(Term):
    """DKD as a term beside the full cross-entropy."""

    needs = frozenset({"logits"})
    one_label = True
    Config = DKDConfig

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        config = self.config
        binary, others = dkd_loss(student.logits, teacher.logits, batch.target, config.temperature)
        rise = risen(batch, config.warmup, config.warmup_fraction)
        return rise * (config.alpha * binary + config.beta * others)
