"""RAP: relative attributing propagation.

Nam, Gur, Choi, Wolf, Lee, Relative Attributing Propagation, AAAI 2020, arXiv 1904.00605, in the
form of the released code, with z_ij = x_i w_ij, Z⁺ and Z⁻ the sums of its positive and negative
parts. From the logit z_c to what the classifier reads, by absolute influence:

    R_i = |z_ic| / Σ_i |z_ic| · z_c

Then at each layer, with R⁺ and R⁻ the parts of the relevance and r = |Z⁻| / (Z⁺ + |Z⁻|):

    C_i = Σ_j z_ij⁺ / Z_j⁺ R_j⁺ + Σ_j z_ij⁻ / Z_j⁻ (r_j R_j⁺ + (1 + r_j) R_j⁻)
    R_i = C_i - [C_i ≠ 0] (Σ_i C_i - Σ_j R_j) / Σ_i [C_i ≠ 0]

The shift is the same for all active neurons of an image: those that matter less than the others
become negative, and positive and negative relevance stay balanced to z_c at every layer. At the
images the z-box rule holds (`trainables.attribution.rules.z_box`).

Each layer adds to both parts what cancels in the sum, so that a map shows how the values of the
layers were rounded: they are computed in float64, the relevance in float32.

Where we differ: the released code forgets negative inputs, here the sign of the contribution
decides; it lets negative relevance at linear layers follow positive contributions, here as at
convolutions the negative ones; additions and averages pass theirs on in proportion to positive
contributions (to the negative ones where there are no others), since shifted relevance over a
sum of nearly zero has no bound.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.attribution import rules
from trainables.attribution.propagation import Propagated, Rule
from trainables.attribution.rules import Passed, per_image
from trainables.attribution.steps import Linear
from trainables.data.views import Normalisation
from trainables.models.outputs import Network
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class RAPConfig:
    """Settings of RAP.

    Attributes:
        part: what of the relevance a map shows.
    """

    part: str = setting(
        "positive",
        "positions with negative relevance are 0 (positive, as the paper's maps), or stay (signed)",
        choices=("positive", "signed"),
    )


class RAP(Propagated):
    """Relative attributing propagation from the logit of a class, which is its start."""

    completeness = "f(x) - what no neuron is active for"
    name = "rap"
    precise = True
    Config = RAPConfig

    def __init__(
        self, config: RAPConfig, network: Network, normalisation: Normalisation | None = None
    ) -> None:
        super().__init__(config, network, normalisation)
        self.signed = config.part == "signed"

    def rule(self) -> Rule:
        return RAPRule(self.canonical.steps[self.canonical.logits])

    def by_position(self, attributed: Tensor) -> Tensor:
        found = attributed.sum(1)
        return found if self.signed else found.clamp(min=0)


class RAPRule(Rule):
    """The rules of RAP.

    Args:
        classifier: what returns the logits.
    """

    def __init__(self, classifier: object) -> None:
        self.classifier = classifier

    def first(self, step: Linear, x: Tensor, relevance: Tensor) -> Passed:
        return rules.z_box(step, x, relevance)

    def linear(self, step: Linear, x: Tensor, relevance: Tensor) -> Passed:
        if step.weight is None:
            return rules.alpha_beta(step, x, relevance, alpha=1.0, biases=False)
        positive = rules.contributions(step, x, True)
        negative = rules.contributions(step, x, False)
        if step is self.classifier:
            return absolute_influence(positive, negative, relevance)
        return relative_influence(positive, negative, relevance)

    def added(self, terms: tuple[Tensor, ...], bias: Tensor | None, relevance: Tensor) -> Passed:
        return rules.alpha_beta_of(terms, None, relevance, alpha=1.0)


def absolute_influence(
    positive: rules.Contributions, negative: rules.Contributions, relevance: Tensor
) -> Passed:
    """R_i = Σ_j |z_ij| / Σ_i |z_ij| R_j."""
    total = positive.totals - negative.totals
    share = (total > 0).to(total.dtype)
    s = rules.over(relevance * share, total)
    return Passed((positive.spread(s) - negative.spread(s),), per_image(relevance * (1 - share)))


def relative_influence(
    positive: rules.Contributions, negative: rules.Contributions, relevance: Tensor
) -> Passed:
    """C_i, shifted to the sum of the relevance; what no neuron is active for is absorbed."""
    p, n = positive.totals, negative.totals
    ratio = rules.over(-n, p - n)
    has_p, has_n = rules.present(p), rules.present(-n)
    above, below = relevance.clamp(min=0), relevance.clamp(max=0)
    found = positive.spread(rules.over(above * has_p, p))
    found = found + negative.spread(rules.over((ratio * above + (1 + ratio) * below) * has_n, n))
    active = (found != 0).to(found.dtype)
    count = per_image(active)
    excess = per_image(found) - per_image(relevance)
    shift = torch.where(count > 0, excess / count.clamp(min=1), 0.0)
    shift = shift.to(found.dtype).view(-1, *[1] * (found.ndim - 1))
    absorbed = torch.where(count > 0, 0.0, per_image(relevance))
    return Passed((found - active * shift,), absorbed)
