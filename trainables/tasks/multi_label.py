"""Multi-label: every class is a question by itself, to which an image says yes or no.

With σ the sigmoid and y in {0, 1}, the cross-entropy is

    CE = (1/n) Σ_b Σ_c − [ y log σ(z) + (1 − y) log (1 − σ(z)) ]

mean over images *and* classes, n of them, as terms of one softmax over (yes, no) take it, too: a
method's weights mean the same for few classes and many. A target of `IGNORED` counts neither way:
not in the loss, and not in a metric.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.labels import IGNORED
from trainables.data.strata import iterative_split, iterative_subset
from trainables.tasks.metrics import F1, MAP
from trainables.tasks.task import Score, Task


def average_precision(logits: Tensor, target: Tensor) -> Tensor:
    """The area under the interpolated precision-recall curve, as PASCAL VOC has it since 2010.

    Precision at a recall is the greatest at that recall or a higher one. Images with the same
    logit come at once: their order means nothing.

    Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015,
    section 2.2, with all recalls in place of eleven.

    Args:
        logits: ``[N, classes]``.
        target: ``[N, classes]`` of 0, 1 and `IGNORED`.

    Returns:
        ``[classes]`` float64 in [0, 1]; NaN for a class to which no image says yes.
    """
    counts = target != IGNORED
    scores, order = torch.where(counts, logits, -torch.inf).sort(dim=0, descending=True)
    yes = ((target == 1) & counts).gather(0, order).double()
    seen = counts.gather(0, order).double().cumsum(0)
    precision = yes.cumsum(0) / seen.clamp_min(1)
    within_tie = torch.zeros_like(scores, dtype=torch.bool)
    within_tie[:-1] = scores[:-1] == scores[1:]
    precision = precision.masked_fill(within_tie, 0.0)
    interpolated = precision.flip(0).cummax(dim=0).values.flip(0)
    return (yes * interpolated).sum(0) / yes.sum(0)


def f1(logits: Tensor, target: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) where σ(z) > 0.5 is a yes.

    Args:
        logits, target: as for `average_precision`.

    Returns:
        ``[classes]`` float64 in [0, 1]; NaN for a class to which no image says yes.
    """
    counts = target != IGNORED
    yes, said = (target == 1) & counts, (logits > 0) & counts
    values = 2 * (yes & said).sum(0).double() / (yes.sum(0) + said.sum(0))
    return values.masked_fill(~yes.any(0), torch.nan)


class MultiLabel(Task):
    """Targets are uint8 or bool ``[N, classes]`` of 0, 1 and `IGNORED`.

    Its metrics are means over those classes to which some image says yes: the mean average
    precision, and F1. Where no class has one, they are NaN.
    """

    name = "multi-label"
    metrics = (MAP, F1)
    independent = True

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Of the sigmoids, mean over images and classes."""
        total, count = _loss(logits, target)
        return total / count.clamp_min(1)

    def answers(self, logits: Tensor) -> Tensor:
        """``[B · classes, 2]``: softmax(z, 0) is (σ(z), 1 − σ(z))."""
        return torch.stack((logits, torch.zeros_like(logits)), dim=2).flatten(0, 1)

    def split(self, labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
        return iterative_split(labels, fraction, seed)

    def subset(self, labels: Tensor, indices: Tensor, fraction: float, seed: int) -> Tensor:
        return iterative_subset(labels, indices, fraction, seed)

    def score(self, said: Iterable[tuple[Tensor, Tensor]]) -> Score:
        parts = list(said)
        logits = torch.cat([part for part, _ in parts])
        target = torch.cat([part for _, part in parts])
        total, count = _loss(logits.double(), target)
        means = [metric(logits, target).nanmean() for metric in (average_precision, f1)]
        loss, *values = torch.stack([total / count.clamp_min(1), *means]).tolist()
        return Score(loss, dict(zip((MAP.name, F1.name), values, strict=True)))


def _loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies that count, and how many these are."""
    counts = (target != IGNORED).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(
        logits, (target == 1).to(logits.dtype), reduction="none"
    )
    return (losses * counts).sum(), counts.sum()


MULTI_LABEL = MultiLabel()
