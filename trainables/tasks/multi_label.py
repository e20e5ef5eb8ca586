"""Multi-label: every class is a question by itself, to which an image says yes or no.

With σ the sigmoid and y in {0, 1}, the cross-entropy is

    CE = (1/n) Σ_b Σ_c − [ y log σ(z) + (1 − y) log (1 − σ(z)) ]

mean over images *and* classes, n of them, as terms of one softmax over (yes, no) take it, too: a
method's weights mean the same for few classes and many. A target of `IGNORED` counts neither way:
not in the loss, and not in a metric.

Where a logit that counts is NaN or infinite, a metric is NaN: such logits have no order. A constant
logit has the precision of chance, the share of images that say yes. A class to which all images say
yes is always found, and has a precision of 1, whoever answers; so has every class of a single
image.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.labels import IGNORED
from trainables.data.strata import iterative_split, iterative_subset
from trainables.tasks.metrics import F1, IMAGE_AP, MAP
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
        ``[classes]`` float64 in [0, 1]; NaN for a class to which no image says yes, or with a logit
        that is no finite number.
    """
    yes, precision, within_tie = _curve(logits, target)
    interpolated = _interpolated(precision.masked_fill(within_tie, 0.0))
    return _known((yes * interpolated).sum(0) / yes.sum(0), logits, target)


def eleven_point_precision(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of the interpolated precision at recalls 0, 0.1, ..., 1: PASCAL VOC up to 2009.

    Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2.

    Args, returns:
        As of `average_precision`.
    """
    yes, precision, within_tie = _curve(logits, target)
    interpolated = _interpolated(precision.masked_fill(within_tie, 0.0))
    found = yes.cumsum(0)
    points = []
    for tenths in range(11):
        # Recall of at least tenths / 10, in integers.
        reached = 10 * found >= tenths * yes.sum(0)
        points.append(torch.where(reached, interpolated, 0.0).amax(0))
    return _known(torch.stack(points).mean(0), logits, target)


def step_precision(logits: Tensor, target: Tensor) -> Tensor:
    """The sum of precision times the rise in recall, not interpolated: scikit-learn's.

    Args, returns:
        As of `average_precision`.
    """
    yes, precision, within_tie = _curve(logits, target)
    # An image counts with the precision behind the last one of the same logit.
    places = torch.arange(len(yes), device=yes.device)[:, None].expand_as(within_tie)
    last = places.masked_fill(within_tie, len(yes)).flip(0).cummin(dim=0).values.flip(0)
    return _known((yes * precision.gather(0, last)).sum(0) / yes.sum(0), logits, target)


def image_precision(logits: Tensor, target: Tensor) -> Tensor:
    """How well every image's own classes are ranked: `step_precision` of its row.

    It is no mAP: its mean over images says little of a rare class. Park et al. (NeurIPS 2020)
    report it as mAP in their released code.

    Args:
        logits, target: as of `average_precision`.

    Returns:
        ``[N]`` float64 in [0, 1]; NaN for an image without a class, or with a logit that is no
        finite number.
    """
    return step_precision(logits.T, target.T)


def _curve(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each class's images by falling logit: yes, the precision so far, and whether the next image
    has the same logit. ``[N, classes]`` each; what does not count comes last."""
    counts = target != IGNORED
    scores, order = torch.where(counts, logits, -torch.inf).sort(dim=0, descending=True)
    yes = ((target == 1) & counts).gather(0, order).double()
    seen = counts.gather(0, order).double().cumsum(0)
    within_tie = torch.zeros_like(scores, dtype=torch.bool)
    within_tie[:-1] = scores[:-1] == scores[1:]
    return yes, yes.cumsum(0) / seen.clamp_min(1), within_tie


def _interpolated(precision: Tensor) -> Tensor:
    return precision.flip(0).cummax(dim=0).values.flip(0)


def _known(values: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Values of columns, with NaN for those that have no yes, or a logit that is no number."""
    no_number = (~logits.isfinite() & (target != IGNORED)).any(0)
    return values.masked_fill(~(target == 1).any(0) | no_number, torch.nan)


def f1(logits: Tensor, target: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) where σ(z) > 0.5 is a yes.

    Args:
        logits, target: as for `average_precision`.

    Returns:
        As `average_precision`.
    """
    counts = target != IGNORED
    yes, said = (target == 1) & counts, (logits > 0) & counts
    values = 2 * (yes & said).sum(0).double() / (yes.sum(0) + said.sum(0))
    return _known(values, logits, target)


class MultiLabel(Task):
    """Targets are uint8 or bool ``[N, classes]`` of 0, 1 and `IGNORED`.

    Its metrics are means over those classes to which some image says yes: the mean average
    precision, and F1 where a logit above 0 is a yes. Where no class has one, they are NaN.
    Beside them, for comparison with code that calls it mAP, the mean over images of
    `image_precision`.
    """

    name = "multi-label"
    metrics = (MAP, F1, IMAGE_AP)
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

    def measured(self, said: Iterable[tuple[Tensor, Tensor]]) -> Score:
        parts = list(said)
        logits = torch.cat([part for part, _ in parts])
        target = torch.cat([part for _, part in parts])
        total, count = _loss(logits.double(), target)
        by_class = average_precision(logits, target)
        every = by_class, f1(logits, target), image_precision(logits, target)
        means = torch.stack([one.nanmean() for one in every])
        found = torch.cat([(total / count.clamp_min(1))[None], means, by_class]).tolist()
        loss, values, classes = found[0], found[1:4], tuple(found[4:])
        names = (metric.name for metric in self.metrics)
        return Score(loss, dict(zip(names, values, strict=True)), classes)


def _loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies that count, and how many these are."""
    counts = (target != IGNORED).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(
        logits, (target == 1).to(logits.dtype), reduction="none"
    )
    return (losses * counts).sum(), counts.sum()


MULTI_LABEL = MultiLabel()
