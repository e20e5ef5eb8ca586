"""Preservation: whether a student's maps are still its teacher's, image by image.

Four measures compare two maps of one image and class, 1 for equal ones:

- cosine similarity;
- Spearman's ρ: the correlation of ranks, those of tied values averaged (Spearman, The Proof and
  Measurement of Association between Two Things, 1904);
- SSIM, mean over windows (Wang et al., Image Quality Assessment: From Error Visibility to
  Structural Similarity, IEEE TIP 2004, section III.B): each map brought to [0, 1] by its least and
  greatest value, L = 1, K_1 = 0.01, K_2 = 0.03, a Gaussian window of 11x11 with deviation 1.5, or
  the largest odd one that fits into smaller maps, where all of it is inside;
- top-k overlap: of the tenth of the pixels with the greatest values, the share that both maps have.
  Of values tied at the edge, each is counted in part, as if they shared the places that are left.

None of them depends on the scale of a map. A map that is constant, or holds no numbers, preserves
nothing: whatever is compared with it scores 0, another such map too.

That two maps are alike need not say that one network explains itself as the other: maps that are
the same for every image are alike, too, and so are maps that show the image's edges whatever the
network has learned (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 3).
`corrected` therefore takes off what is had for nothing, as Cohen's κ does (A Coefficient of
Agreement for Nominal Scales, 1960): with m the mean of a measure over pairs, and

    chance = max(0, m with the teacher's map of another image of the class, m of the teacher's
                 architecture with untrained weights)

    preservation = max(0, (m − chance) / (1 − chance))

It is 1 where all maps are equal, never above m, and 0 for maps that are constant, the same for all
images of a class, upside down, or no nearer to the teacher's than an untrained network's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.attribution.localisation import AT_ONCE
from trainables.attribution.ranks import empty, ranks

SHARE = 0.1
"""Of the pixels, those that `top_overlap` compares."""

WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03

MEASURES = ("cosine", "spearman", "ssim", "top_overlap")
HEADLINE = "spearman"
"""The measure of the column: free of scale and of any rising function of a map's values, which
differ between networks that look at the same places."""


def compare(one: Tensor, other: Tensor) -> dict[str, Tensor]:
    """All measures of pairs of maps by name, ``[P]`` float64 each.

    Args:
        one, other: ``[P, H, W]`` float32.
    """
    at_once = max(1, AT_ONCE // one[0].numel()) if len(one) else 1
    parts = [_compare(*both) for both in zip(one.split(at_once), other.split(at_once), strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in MEASURES}


def _compare(one: Tensor, other: Tensor) -> dict[str, Tensor]:
    nothing = empty(one) | empty(other)
    blank = nothing.view(-1, 1, 1)
    one, other = (torch.where(blank, 0.0, maps) for maps in (one, other))
    found = {
        "cosine": _cosine(one.flatten(1), other.flatten(1)),
        "spearman": spearman(one.flatten(1), other.flatten(1)),
        "ssim": ssim(one, other),
        "top_overlap": top_overlap(one.flatten(1), other.flatten(1)),
    }
    return {name: torch.where(nothing, 0.0, values.double()) for name, values in found.items()}


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    # By the greatest value first: squares of small gradients would vanish.
    one, other = (v.double() for v in (one, other))
    one, other = (v / v.abs().amax(1, keepdim=True).clamp_min(1e-300) for v in (one, other))
    return F.cosine_similarity(one, other, dim=1, eps=1e-300)


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's ρ of rows ``[P, n]``: ``[P]`` float64; 0 where one is constant."""
    centred = [ranks(values) - (values.shape[1] + 1) / 2 for values in (one, other)]
    return F.cosine_similarity(centred[0], centred[1], dim=1)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean SSIM of maps ``[P, H, W]``, each scaled to [0, 1]: ``[P]``, in their precision."""
    one, other = _unit(one), _unit(other)
    smallest = min(one.shape[-2:])
    width = min(WINDOW, smallest - (smallest + 1) % 2)
    rows, columns = (_windows(size, width, one) for size in one.shape[-2:])

    def mean(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    first, second = mean(one), mean(other)
    var = mean(one * one) - first**2 + mean(other * other) - second**2
    cov = mean(one * other) - first * second
    light = (2 * first * second + K1**2) / (first**2 + second**2 + K1**2)
    return (light * (2 * cov + K2**2) / (var + K2**2)).mean((1, 2))


def _windows(size: int, width: int, like: Tensor) -> Tensor:
    """The window at every place of an axis where all of it is inside: ``[size - width + 1, size]``.
    Products with it are several times faster than convolutions on a CPU."""
    places = torch.arange(width, dtype=torch.float64) - width // 2
    weights = torch.exp(-(places**2) / (2 * DEVIATION**2))
    line = torch.zeros(size, dtype=torch.float64)
    line[:width] = weights / weights.sum()
    shifted = [line.roll(shift) for shift in range(size - width + 1)]
    return torch.stack(shifted).to(like)


def _unit(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)


def top_overlap(one: Tensor, other: Tensor, share: float = SHARE) -> Tensor:
    """The part of the greatest values' places that rows ``[P, n]`` share: ``[P]`` float64.

    Args:
        one, other: the rows.
        share: of n that is compared, one place at least.
    """
    count = max(1, round(share * one.shape[1]))
    both = torch.minimum(_among_top(one, count), _among_top(other, count))
    return both.sum(1) / count


def _among_top(values: Tensor, count: int) -> Tensor:
    """How much of every value is among the greatest of its row, 0 to 1, ``count`` in all."""
    edge = values.topk(count, dim=1).values[:, -1:]
    above, tied = values > edge, values == edge
    left = count - above.sum(1, keepdim=True)
    return above.double() + tied * (left.double() / tied.sum(1, keepdim=True))


def others(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs are compared with another image's map, and with which.

    The next pair of the same class, the first behind the last; pairs that are alone in their class
    take turns among each other.

    Args:
        classes: of every pair, int64 ``[P]``.

    Returns:
        Two orders of the same places, int64; empty for fewer than two pairs. A pair that alone is
        alone is not among them.
    """
    counts = torch.bincount(classes) if len(classes) else classes
    group = torch.where(counts[classes] > 1, classes, -1) if len(classes) else classes
    here, there = [], []
    for name in group.unique().tolist():
        places = (group == name).nonzero().squeeze(1)
        if len(places) > 1:
            here.append(places)
            there.append(places.roll(-1))
    if not here:
        return classes.new_zeros(0), classes.new_zeros(0)
    return torch.cat(here), torch.cat(there)


def corrected(value: float, *chances: float | None) -> float:
    """What is left of a mean of a measure without what is had for nothing, 0 to 1.

    Args:
        value: m; NaN, of no pairs, gives 0.
        chances: means that say nothing of what the student has learned; None where unknown.
    """
    chance = max([0.0, *(one for one in chances if one is not None and one == one)])
    if value != value or chance >= 1:
        return 0.0
    return max(0.0, (value - chance) / (1 - chance))
