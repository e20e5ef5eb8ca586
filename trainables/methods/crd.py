"""CRD: contrastive representation distillation (Tian et al., ICLR 2020, arXiv 1910.10699).

Embeddings of both networks are mapped linearly to 128 dimensions and to unit length, g_s and
g_t. Of an image a buffer holds what g_t was when the image was last seen (mixed half and half
with what was there before). A critic h tells the image's own entry from those of K images of
other classes, with M training images (noise-contrastive estimation, section 3):

    h(s, t) = a / (a + K / M),   a = exp(g_s · g_t / τ) / Z
    L = CE + β · mean_b [ − log h(b, b) − Σ_k log (1 − h(b, k)) ]  + the same with s and t swapped

β = 0.8, τ = 0.07, K = 16384. In the paper Z = 1 (``critic: paper``). The released code, and the
published numbers with it, sets Z = M · mean(exp(g_s · g_t / τ)) on the first batch and keeps it
(``critic: normalised``, the default): otherwise an untrained h is near 1 for all K negatives and
their sum swamps every other loss. Negatives are drawn with replacement; the code does so only
where K is larger than the number of images of other classes, which is our bound for K.

The buffers take 2 · N · 128 floats (51 MB for CIFAR) in memory and in every checkpoint. A step
compares the batch with all N entries and picks the K + 1 of each image, which costs less than
gathering B · K entries: some 0.1 s on one CPU core for B = 64 and CIFAR, whatever the network.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.methods.precision import full_precision
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.settings import setting


@full_precision
def similarities(anchors: Tensor, memory: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """g_s · g_t / τ of each image with its candidates.

    Args:
        anchors: ``[B, D]`` float32 of unit length, from one network.
        memory: ``[N, D]`` float32, from the other.
        candidates: rows of ``memory`` for each anchor, ``[B, 1 + K]``; its own comes first.
        temperature: τ > 0.

    Returns:
        ``[B, 1 + K]`` float32.
    """
    return (anchors @ memory.t()).gather(1, candidates) / temperature


def crd_loss(scores: Tensor, images: int, constant: Tensor) -> Tensor:
    """The critic's loss for one of the two networks as anchor.

    Args:
        scores: as `similarities` returns them.
        images: M, the number of training images.
        constant: Z, a scalar > 0.

    Returns:
        A scalar in nats, at least 0: sum over candidates, mean over images.
    """
    odds = scores - constant.log() - math.log((scores.shape[1] - 1) / images)  # logit of h
    return F.softplus(-odds[:, 0]).mean() + F.softplus(odds[:, 1:]).sum(dim=1).mean()


@full_precision
def project(embedding: Tensor, head: nn.Linear) -> Tensor:
    """``[B, D]`` through a linear layer to unit length, float32."""
    return F.normalize(head(embedding.float()), dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CRDConfig:
    """Weights of `CRD`."""

    beta: float = setting(0.8, "weight", at_least=0, search=(0.1, 5), log=True, weight=True)
    temperature: float = setting(
        0.07, "τ, of the similarities", above=0, search=(0.03, 0.3), log=True
    )
    negatives: int = setting(16384, "K, images of other classes per image", at_least=1)
    dimension: int = setting(128, "width of the compared embeddings", at_least=1)
    momentum: float = setting(
        0.5, "share of a buffer's entry that stays at an update", at_least=0, at_most=1
    )
    critic: str = setting(
        "normalised",
        "the released code's constant Z, or the paper's Z = 1",
        choices=("normalised", "paper"),
    )


class CRD(Term):
    """CRD on the embeddings, beside the full cross-entropy."""

    needs = frozenset({"embedding"})
    one_label = True
    Config = CRDConfig

    constants: Tensor
    student_memory: Tensor
    teacher_memory: Tensor
    order: Tensor
    counts: Tensor
    starts: Tensor

    def __init__(self, config: CRDConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        self.student_head = nn.Linear(student.embedding, config.dimension)
        self.teacher_head = nn.Linear(teacher.embedding, config.dimension)
        self.register_buffer("constants", torch.zeros(2))  # Z of both sides; 0 before the first
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None  # of the current step

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        classes = labels[indices]
        counts = classes.bincount()
        self.images = len(indices)
        self.negatives = min(self.config.negatives, self.images - int(counts.max()))
        if not self.negatives:
            raise UserError("method 'crd' needs training images of at least two classes")
        # The training images class by class, and where each class begins.
        order = indices[classes.argsort(stable=True)]
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        width = self.config.dimension
        for name in ("student_memory", "teacher_memory"):
            entries = torch.empty(len(labels), width).uniform_(-1, 1) * math.sqrt(3 / width)
            self.register_buffer(name, entries.to(labels.device))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours = project(student.embedding, self.student_head)
        theirs = project(teacher.embedding, self.teacher_head)
        candidates = torch.cat([batch.indices.unsqueeze(1), self._others(batch.target)], dim=1)
        against = ((ours, self.teacher_memory), (theirs, self.student_memory))
        scores = torch.stack(
            [similarities(*side, candidates, self.config.temperature) for side in against]
        )
        constants = self._constants(scores.detach())
        if self.training:
            self._seen = constants, ours.detach(), theirs.detach()
        losses = [
            crd_loss(side, self.images, constant)
            for side, constant in zip(scores, constants, strict=True)
        ]
        return self.config.beta * torch.stack(losses).sum()

    def after_step(self, batch: Batch) -> None:
        # Not in `forward`: the backward pass still needs the buffers that it multiplied by.
        assert self._seen is not None
        (constants, ours, theirs), self._seen = self._seen, None
        self.constants.copy_(constants)
        self._remember(self.student_memory, ours, batch.indices)
        self._remember(self.teacher_memory, theirs, batch.indices)

    def _others(self, target: Tensor) -> Tensor:
        """Training images of other classes than ``target``, ``[B, K]``, uniformly drawn."""
        own, start = self.counts[target].unsqueeze(1), self.starts[target].unsqueeze(1)
        drawn = torch.randint(1 << 62, (len(target), self.negatives), device=target.device)
        place = drawn % (self.images - own)
        return self.order[place + own * (place >= start)]

    def _constants(self, scores: Tensor) -> Tensor:
        """Z of both sides, ``[2]``: as kept, or estimated from the first batch."""
        if self.config.critic == "paper":
            return torch.ones_like(self.constants)
        estimates = self.images * scores.exp().mean(dim=(1, 2))
        return torch.where(self.constants > 0, self.constants, estimates)

    def _remember(self, memory: Tensor, embeddings: Tensor, indices: Tensor) -> None:
        kept = self.config.momentum
        mixed = kept * memory[indices] + (1 - kept) * embeddings
        memory.index_copy_(0, indices, F.normalize(mixed, dim=1))
