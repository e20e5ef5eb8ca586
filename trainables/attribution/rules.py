"""How sums pass relevance on to what they add.

With z_ij = x_i w_ij the contribution of an input i to a sum j, z_ij⁺ and z_ij⁻ its positive and its
negative part, for any signs of inputs and weights, and R_j the relevance of the sum. What inputs do
not have is absorbed, and counted: by biases, and by sums that nothing contributes to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.attribution.steps import Linear

NOTHING = 1e-6
"""Contributions to a sum that together are below this share of the mean of an image's sums are
none: what a convolution makes of zeros is not always zero."""


@dataclass(frozen=True)
class Passed:
    """What becomes of the relevance of a step.

    Attributes:
        parts: what each of its sources has, in their shapes.
        absorbed: what none of them has, ``[B]`` float64.
    """

    parts: tuple[Tensor, ...]
    absorbed: Tensor


@dataclass(frozen=True)
class Contributions:
    """Those of one sign, z_ij⁺ or z_ij⁻.

    Attributes:
        totals: Σ_i z_ij, in the shape of the sums.
        parts: inputs, and the sums from which a gradient to them can be taken.
    """

    totals: Tensor
    parts: Sequence[tuple[Tensor, Tensor]]

    def spread(self, values: Tensor) -> Tensor:
        """Σ_j z_ij s_j of values s_j in the shape of the sums, in the shape of the inputs."""
        found = [x.detach() * torch.autograd.grad(z, x, values)[0] for x, z in self.parts]
        return sum(found[1:], found[0])


def contributions(step: Linear, x: Tensor, positive: bool) -> Contributions:
    """The positive, or the negative ones of an input to a step's sums."""
    if step.weight is None:
        return _contributions(step, [(x.clamp(min=0) if positive else x.clamp(max=0), None)])
    if step.from_nonnegative:
        return _contributions(step, [(x, step.part(positive))])
    above, below = x.clamp(min=0), x.clamp(max=0)
    return _contributions(step, [(above, step.part(positive)), (below, step.part(not positive))])


def _contributions(step: Linear, terms: Sequence[tuple[Tensor, Tensor | None]]) -> Contributions:
    parts = []
    with torch.enable_grad():
        for x, weight in terms:
            leaf = x.detach().requires_grad_()
            parts.append((leaf, step.apply(leaf, weight)))
    sums = [z.detach() for _, z in parts]
    return Contributions(sum(sums[1:], sums[0]), parts)


def alpha_beta(step: Linear, x: Tensor, relevance: Tensor, alpha: float, biases: bool) -> Passed:
    """R_i = Σ_j (α z_ij⁺ / Σ_i z_ij⁺ - β z_ij⁻ / Σ_i z_ij⁻) R_j with β = α - 1.

    Bach et al., On Pixel-Wise Explanations, PLoS ONE 2015, equation 60. A sum that has only
    positive contributions passes on 1 instead of α, so that nothing is made from nothing; one that
    has no positive ones, and may yet be positive by its bias, absorbs their share. An average,
    which has no bias, passes all on to its negative contributions where it has no others.

    Args:
        step: a convolution, a linear layer, or an average.
        x: what it reads.
        relevance: of the sums.
        alpha: α, at least 1.
        biases: whether the bias is one of the contributions, and absorbs its share.
    """
    average = step.weight is None
    for_it = contributions(step, x, True)
    bias = step.bias if biases else None
    p = for_it.totals if bias is None else for_it.totals + bias.clamp(min=0)
    if alpha == 1 and not (average and not step.from_nonnegative):
        there = p > 0 if average else present(p)
        s_p = torch.where(there, relevance / p, 0.0)
        found, absorbed = for_it.spread(s_p), per_image(relevance.masked_fill(there, 0.0))
    else:
        against = contributions(step, x, False)
        n = against.totals if bias is None else against.totals + bias.clamp(max=0)
        shares = _shares(p, n, alpha, fall_back=average, nothing=not average)
        s_p, s_n = over(relevance * shares[0], p), over(relevance * shares[1], n)
        found = for_it.spread(s_p) + against.spread(s_n)
        absorbed = per_image(relevance * (1 - shares[0] - shares[1]))
        if bias is not None:
            absorbed = absorbed + per_image(bias.clamp(max=0) * s_n)
    if bias is not None:
        absorbed = absorbed + per_image(bias.clamp(min=0) * s_p)
    return Passed((found,), absorbed)


def alpha_beta_of(
    terms: Sequence[Tensor], bias: Tensor | None, relevance: Tensor, alpha: float
) -> Passed:
    """The same of a sum of few terms: an addition, or a scaled value and its shift.

    Where there are only negative contributions they have all.

    Args:
        terms: in shapes that broadcast to that of the sum.
        bias: what absorbs its share; None: nothing does.
        relevance: of the sum.
        alpha: α, at least 1.
    """
    counted = [*terms, *([] if bias is None else [bias])]
    above, below = [t.clamp(min=0) for t in counted], [t.clamp(max=0) for t in counted]
    p, n = sum(above[1:], above[0]), sum(below[1:], below[0])
    for_it, against = _shares(p, n, alpha, fall_back=True, nothing=False)
    s_p, s_n = over(relevance * for_it, p), over(relevance * against, n)
    parts = [up * s_p + down * s_n for up, down in zip(above, below, strict=True)]
    absorbed = per_image(relevance * (1 - for_it - against))
    if bias is not None:
        absorbed = absorbed + per_image(parts.pop())
    return Passed(
        tuple(p.sum_to_size(t.shape) for p, t in zip(parts, terms, strict=True)), absorbed
    )


def epsilon(step: Linear, x: Tensor, relevance: Tensor, least: float) -> Passed:
    """R_i = Σ_j z_ij / (z_j + ε sign(z_j)) R_j with z_j = Σ_i z_ij + b_j.

    Bach et al. 2015, equation 58. Biases absorb b_j, and ε absorbs ε sign(z_j).

    Args:
        step, x, relevance: as for `alpha_beta`.
        least: ε, above 0.
    """
    all_of_them = _contributions(step, [(x, step.weight)])
    bias = step.bias if step.bias is not None else torch.zeros_like(all_of_them.totals)
    s, spent = _stabilised(all_of_them.totals + bias, relevance, least)
    return Passed((all_of_them.spread(s),), spent + per_image(bias * s))


def epsilon_of(
    terms: Sequence[Tensor], bias: Tensor | None, relevance: Tensor, least: float
) -> Passed:
    """The same of a sum of few terms; arguments as for `alpha_beta_of`."""
    total = sum(terms[1:], terms[0])
    s, spent = _stabilised(total if bias is None else total + bias, relevance, least)
    absorbed = spent if bias is None else spent + per_image(bias * s)
    return Passed(tuple((t * s).sum_to_size(t.shape) for t in terms), absorbed)


def z_box(step: Linear, x: Tensor, relevance: Tensor) -> Passed:
    """R_i = Σ_j (x_i w_ij - l w_ij⁺ - h w_ij⁻) / Σ_i (x_i w_ij - l w_ij⁺ - h w_ij⁻) R_j.

    Montavon et al., Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition,
    Pattern Recognition 2017, section 4.2 (the z^B rule), without biases. The box is that of the
    image's own values: l its least, h its greatest, of all channels, as in the released code of
    RAP (Nam et al. 2020). An image of one value has no relevance: everything is absorbed.

    Args:
        step, x, relevance: as for `alpha_beta`; x: the images.
    """
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    # The same contributions as terms that are none below 0, so that nothing cancels.
    all_of_them = _contributions(step, [(x - low, step.part(True)), (x - high, step.part(False))])
    there = present(all_of_them.totals)
    s = torch.where(there, relevance / all_of_them.totals, 0.0)
    return Passed((all_of_them.spread(s),), per_image(relevance.masked_fill(there, 0.0)))


def per_image(values: Tensor) -> Tensor:
    """The sum of each image's values, ``[B]`` float64."""
    return values.flatten(1).sum(1, dtype=torch.float64)


def present(totals: Tensor) -> Tensor:
    """Whether contributions that add up to these, none below 0, are more than `NOTHING`."""
    mean = totals.mean(tuple(range(1, totals.ndim)), keepdim=True)
    return totals > (NOTHING * mean).clamp(min=0)


def over(values: Tensor, totals: Tensor) -> Tensor:
    """The quotient; 0 where the values are."""
    return torch.where(values == 0, 0.0, values / totals)


def _shares(
    p: Tensor, n: Tensor, alpha: float, *, fall_back: bool, nothing: bool
) -> tuple[Tensor, Tensor]:
    """How much of its relevance a sum passes on to positive and to negative contributions.

    Args:
        p, n: their sums.
        alpha: α.
        fall_back: whether negative ones have all where there are no positive ones.
        nothing: whether contributions below `NOTHING` are none.
    """
    has_p = present(p) if nothing else p > 0
    has_n = present(-n) if nothing else n < 0
    for_it = torch.where(has_p, torch.where(has_n, alpha, 1.0), 0.0)
    alone = 1.0 if fall_back else 1.0 - alpha
    against = torch.where(has_n, torch.where(has_p, 1.0 - alpha, alone), 0.0)
    return for_it, against


def _stabilised(z: Tensor, relevance: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """R_j / (z_j + ε sign(z_j)), and what ε absorbs of each image."""
    added = torch.where(z < 0, -least, least)
    s = relevance / (z + added)
    return s, per_image(added * s)
