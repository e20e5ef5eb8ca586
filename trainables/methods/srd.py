"""SRD: semantic representational distillation (Yang et al., arXiv 2205.06701; SRRL, ICLR 2021).

With F_s, F_t the last feature maps, A an adaptor, GAP the average over positions and W_t the
teacher's frozen classifier,

    L = CE + α · L_FM + β · L_SR
    L_FM = ‖ GAP(A(F_s)) − GAP(F_t) ‖²      mean over images and channels
    L_SR = ‖ W_t(GAP(A(F_s))) − z_t ‖²      mean over images and classes

α = β = 1 on CIFAR. ``features: full_map`` matches A(F_s) and F_t position by position instead,
as the comparison by chitraz does (there α = 1, β = 2). The adaptor is a 1x1 convolution with
BatchNorm and ReLU. Where the teacher's classifier does not read GAP(F_t), as in VGG, which takes
maxima, and in transformers with a class token, a linear layer stands between the embeddings instead
(they may have any sign), and those are matched, whatever ``features`` says.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.methods.adaptors import StageAdaptor
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.settings import setting


def srd_loss(cross_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """L_SR: the mean squared difference of logits.

    Args:
        cross_logits: W_t of the adapted student feature, ``[B, classes]``.
        teacher_logits: ``[B, classes]``.

    Returns:
        A scalar, float32, at least 0.
    """
    return F.mse_loss(cross_logits.float(), teacher_logits.float())


@dataclass(frozen=True, kw_only=True, slots=True)
class SRDConfig:
    """Weights of `SRD`."""

    alpha: float = setting(
        1.0, "weight of the feature matching", at_least=0, search=(0.1, 10), log=True, weight=True
    )
    beta: float = setting(
        1.0,
        "weight of the representational loss",
        at_least=0,
        search=(0.1, 20),
        log=True,
        weight=True,
    )
    features: str = setting(
        "channel_mean", "what is matched of the maps", choices=("channel_mean", "full_map")
    )


class SRD(Term):
    """SRD beside the full cross-entropy. Variants override `representational`."""

    needs = frozenset({"embedding", "logits"})
    raw_logits = True  # what the teacher's classifier says of the student is compared with them
    Config = SRDConfig

    weight: Tensor
    bias: Tensor | None

    def __init__(self, config: SRDConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        pooled = bool(student.stages) and teacher.pooled
        self.maps = StageAdaptor(student.stages[-1], teacher.stages[-1]) if pooled else None
        self.embeddings = None if pooled else nn.Linear(student.embedding, teacher.embedding)
        self.full_map = pooled and config.features == "full_map"
        if self.full_map:
            self.needs = frozenset({"stages", "logits"})

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        # Not a part of the state: the teacher's file has it.
        weight, bias = teacher.classifier.weight, teacher.classifier.bias
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    def representational(self, cross_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """L_SR of this variant, without its weight."""
        return srd_loss(cross_logits, teacher_logits)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        embedding, matching = self._adapted(student, teacher)
        cross_logits = F.linear(embedding, self.weight, self.bias)
        loss = self.representational(cross_logits, teacher.logits)
        return self.config.alpha * matching + self.config.beta * loss

    def _adapted(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        """The adapted embedding ``[B, D_t]``, and L_FM."""
        if self.maps is None:
            assert self.embeddings is not None
            embedding = self.embeddings(student.embedding.float()).float()
        else:
            adapted = self.maps(student.stages[-1]).float()
            embedding = adapted.mean(dim=(2, 3))
            if self.full_map:
                return embedding, F.mse_loss(adapted, self.maps.match(teacher.stages[-1]).float())
        return embedding, F.mse_loss(embedding, teacher.embedding.float())
