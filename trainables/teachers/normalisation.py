"""Which input normalisation a foreign network was trained with.

A wrong one costs ten points and gives no error, so that it is found twice. First by the
cross-entropy on training images: a trained network is surest with its own. Then, where there is
one, by the first BatchNorm, which has kept the mean and the variance of what it saw in training;
with the right normalisation, and the right kind of random crop, the images give them again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.compression.measure import count_macs
from trainables.data.counter_hash import counter_hash
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.models.outputs import Network
from trainables.teachers.batchnorm_gap import statistics_gap
from trainables.teachers.normalisations import Statistics

MOST_IMAGES = 2048
LEAST_IMAGES = 256
_ROUNDS = (64, 256, 1024, MOST_IMAGES)
# Of all candidates together: some seconds on two cores.
_MACS = 2e11
_SEED = 20_261_125

CLEAR = 3.0
"""Standard errors by which the best cross-entropy must be below another."""

_HOPELESS = 6.0
# Of BatchNorm's statistics: how near they must be, and how much nearer than with another
# normalisation. Measured: 1e-4 to 1e-2 with the right one, 1e-2 to 1 and more with others.
_NEAR = 0.05
_NEARER = 4.0
# Statistics are of positions: large images need not be many.
_GAP_IMAGES, _GAP_PIXELS = 64, 1 << 20
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A normalisation and how well it fits.

    Attributes:
        name: to be given as ``--normalisation``.
        mean, std: per channel, of images in [0, 1].
        losses: cross-entropy of each image, ``[n]``, in nats.
        predictions: class of each image, int64 ``[n]``.
        gap: Kullback-Leibler divergence of what the first BatchNorm saw in training from what it
            sees now, in nats, mean over channels; None without BatchNorm.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    predictions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    gap: float | None = None

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.losses.mean().item()


@dataclass(frozen=True)
class Probe:
    """What a network says to training images in several normalisations.

    Attributes:
        candidates: by cross-entropy, the best first.
        labels: of the images, int64 ``[n]``.
        classes: of the data set.
    """

    candidates: tuple[Candidate, ...]
    labels: Tensor
    classes: int

    def choose(self, told: str | None = None) -> Candidate:
        """The normalisation that the network was trained with.

        Args:
            told: the candidate that the file itself names; it is believed unless it is clearly
                worse than another.

        Raises:
            UserError: it is not clear; with the candidates and their losses.
        """
        best = self.candidates[0]
        rivals = [c for c in self.candidates if _behind(c, best) < CLEAR]
        told_one = next((c for c in rivals if c.name == told), None)
        if told_one is not None:
            return told_one
        nearest = _nearest_by_statistics(self.candidates)
        if nearest is not None:
            if nearest in rivals or self.accuracy(nearest) >= self.accuracy(best):
                return nearest
        elif len(rivals) == 1:
            return best
        shown = ", ".join(f"{c.name} {c.loss:.4f}" for c in self.candidates[:4])
        raise UserError(
            f"--normalisation: it is not clear which one the network was trained with; name it "
            f"(cross-entropy on {len(self.labels)} training images: {shown})"
        )

    def accuracy(self, candidate: Candidate) -> float:
        """The share of the images that the network gets right, in [0, 1]."""
        seen = len(candidate.predictions)
        return (candidate.predictions == self.labels[:seen]).float().mean().item()

    def second(self, chosen: Candidate) -> Candidate | None:
        """The best of the others; None where there is no other."""
        return next((c for c in self.candidates if c is not chosen), None)

    def margin(self, chosen: Candidate) -> float | None:
        """By how much the best other one's cross-entropy is larger, on the same images."""
        second = self.second(chosen)
        return None if second is None else _difference(second, chosen)[0]

    def doubt(self, chosen: Candidate) -> str | None:
        """That another normalisation fits clearly better than a chosen one; None: none does."""
        best = self.candidates[0]
        nearest = _nearest_by_statistics(self.candidates)
        if _behind(chosen, best) < CLEAR or nearest is chosen:
            return None
        return f"{best.name} fits clearly better: cross-entropy {best.loss:.4f}"

    def report(self, chosen: Candidate) -> str:
        """One line that says what was found, and how sure it is."""
        text = (
            f"{chosen.name}, cross-entropy {chosen.loss:.4f} on {len(chosen.losses)} training "
            f"images of {len(self.labels[: len(chosen.losses)].unique())} classes"
        )
        second = self.second(chosen)
        if second is not None:
            more, error = _difference(second, chosen)
            text += f"; next {second.name}, {more:+.4f} ± {error:.4f}"
        if chosen.gap is not None:
            others = [c.gap for c in self.candidates if c is not chosen and c.gap is not None]
            text += f"; the network's BatchNorm is {chosen.gap:.4f} away from it"
            text += f", from others {min(others):.4f} and more" if others else ""
        return text


def probe(
    network: Network, dataset: Dataset, tried: Mapping[str, Statistics], device: torch.device
) -> Probe:
    """Tries normalisations on training images of all classes.

    All candidates see the same images. One that is clearly worse sees only the first of them.

    Args:
        network: in evaluation mode, on ``device``.
        dataset: only its training images are read; an equal number of every class, as far as
            there are, drawn by a fixed seed.
        tried: by name; at least one.
        device: where.
    """
    macs = count_macs(network, dataset.image_shape)
    most = int(min(max(_MACS / 3 / max(macs, 1), LEAST_IMAGES), MOST_IMAGES))
    indices = balanced(dataset.train.labels, max(most, dataset.num_classes))
    images, labels = dataset.train.images[indices], dataset.train.labels[indices]
    candidates = [Candidate(name=n, mean=mean, std=std) for n, (mean, std) in tried.items()]
    under_way, done = candidates, 0
    dropped: list[Candidate] = []
    for upto in [*(count for count in _ROUNDS if count < len(labels)), len(labels)]:
        part = slice(done, upto)
        seen = [_seen(c, network, images[part], labels[part], device) for c in under_way]
        best, done = min(seen, key=lambda c: c.loss), upto
        under_way = [c for c in seen if _behind(c, best) < _HOPELESS]
        dropped += [c for c in seen if _behind(c, best) >= _HOPELESS]
        if len(under_way) == 1 and done >= min(LEAST_IMAGES, len(labels)):
            break
    found = sorted(under_way, key=lambda c: c.loss) + sorted(dropped, key=lambda c: c.loss)
    few = images[: max(_GAP_IMAGES, _GAP_PIXELS // images.shape[2:].numel())]
    gaps = [statistics_gap(network, few, c.mean, c.std, dataset, device) for c in found]
    return Probe(
        tuple(replace(c, gap=gap) for c, gap in zip(found, gaps, strict=True)),
        labels,
        dataset.num_classes,
    )


def balanced(labels: Tensor, count: int) -> Tensor:
    """Images of all classes alike: int64 ``[min(count, N)]``, drawn by a fixed seed.

    The classes take turns, so that the beginning is balanced, too.

    Args:
        labels: int64 ``[N]``.
        count: how many.
    """
    indices = torch.arange(len(labels))
    shuffled = torch.argsort(counter_hash(0, _SEED, 0, indices), stable=True)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    starts = torch.cumsum(counts, 0) - counts
    turn = torch.empty_like(indices)
    turn[by_class] = indices - starts[labels[by_class]]
    return shuffled[torch.argsort(turn[shuffled], stable=True)][:count]


@torch.no_grad()
def _seen(
    candidate: Candidate, network: Network, images: Tensor, labels: Tensor, device: torch.device
) -> Candidate:
    """The candidate with the network's answers to further images."""
    losses, predictions = [candidate.losses], [candidate.predictions]
    for pixels, target in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        floats = to_float(pixels.to(device), candidate.mean, candidate.std)
        logits = network(floats).logits.float().cpu()
        losses.append(F.cross_entropy(logits, target, reduction="none"))
        predictions.append(logits.argmax(dim=1))
    return replace(candidate, losses=torch.cat(losses), predictions=torch.cat(predictions))


def _difference(one: Candidate, other: Candidate) -> tuple[float, float]:
    """How much larger the first one's cross-entropy is, and the standard error of that."""
    shared = min(len(one.losses), len(other.losses))
    differences = one.losses[:shared] - other.losses[:shared]
    if shared < 2:
        return differences.mean().item(), math.inf
    return differences.mean().item(), (differences.std() / math.sqrt(shared)).item()


def _behind(candidate: Candidate, best: Candidate) -> float:
    """By how many standard errors a candidate's cross-entropy is larger."""
    more, error = _difference(candidate, best)
    return 0.0 if more <= 0 else more / max(error, 1e-12)


def _nearest_by_statistics(candidates: Sequence[Candidate]) -> Candidate | None:
    """The one that BatchNorm's statistics single out; None where they do not."""
    gaps = sorted((c.gap, i) for i, c in enumerate(candidates) if c.gap is not None)
    if not gaps or gaps[0][0] > _NEAR:
        return None
    if len(gaps) > 1 and gaps[1][0] < _NEARER * gaps[0][0]:
        return None
    return candidates[gaps[0][1]]
