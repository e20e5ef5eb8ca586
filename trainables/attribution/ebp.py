"""EBP: excitation backpropagation.

The probability that a random walk from the logit of a class, which takes excitatory connections
alone, comes by a neuron:

    P(i) = Σ_j P(i | j) P(j)      P(i | j) = x_i w_ij⁺ / Σ_i x_i w_ij⁺

with P = 1 at the class (Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018,
arXiv 1608.00507, section 3.2). The paper's neurons are never below 0. Where one may be, as in the
images and the sums of pre-activation blocks, a connection is excitatory where its contribution
x_i w_ij is positive; a sum or an average of negative values alone goes on to those. Biases take
no part. A walk that comes to a neuron without excitatory connections ends there (the paper's case
of a sum of 0); what is shown is P(i) given that it arrives, so that it sums to 1. How much was lost
`Relevance.absorbed` says. Where nothing arrives, all is 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.attribution import rules
from trainables.attribution.propagation import Propagated, Rule
from trainables.attribution.rules import Passed, per_image
from trainables.attribution.steps import Linear
from trainables.data.views import Normalisation
from trainables.errors import UserError
from trainables.models.outputs import Network
from trainables.settings import setting

IMAGES, LAST = "input", "last"


@dataclass(frozen=True, kw_only=True, slots=True)
class EBPConfig:
    """Settings of EBP.

    Attributes:
        layer: where the walk ends.
    """

    layer: str = setting(
        IMAGES, "where the walk ends: at the images (input), last or a number: a stage, from 0"
    )


class EBP(Propagated):
    """Excitation backpropagation to the images, or to a stage of the network.

    Raises:
        UserError: a stage that the network has not, or that a shortcut goes around; as
            `Propagated`.
    """

    completeness = "1"
    name = "ebp"
    one = True
    Config = EBPConfig

    def __init__(
        self, config: EBPConfig, network: Network, normalisation: Normalisation | None = None
    ) -> None:
        super().__init__(config, network, normalisation)
        own = self.canonical
        places = {str(number): place for number, place in enumerate(own.stages)}
        places |= {LAST: own.stages[-1]} if own.stages else {}
        if config.layer == IMAGES:
            return
        if config.layer not in places:
            known = f"{IMAGES}, {LAST} or a stage from 0 to {len(own.stages) - 1}"
            raise UserError(
                f"ebp.layer: expected {known if places else IMAGES} of {own.named}, "
                f"got {config.layer!r}"
            )
        self.place = places[config.layer]
        if not own.passes(self.place):
            raise UserError(f"ebp.layer: not all of {own.named} goes by stage {config.layer}")

    def rule(self) -> Rule:
        return EBPRule()

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        found = self.relevance(images, targets).values
        arrived = per_image(found).float().view(-1, *[1] * (found.ndim - 1))
        found = rules.over(found, arrived)
        return found if self.place == 0 else found.sum(1, keepdim=True)

    def expected_sum(self, images: Tensor, targets: Tensor) -> Tensor:
        return torch.ones(len(images), device=images.device)


class EBPRule(Rule):
    """Positive contributions alone, without biases."""

    def linear(self, step: Linear, x: Tensor, relevance: Tensor) -> Passed:
        return rules.alpha_beta(step, x, relevance, alpha=1.0, biases=False)

    def added(self, terms: tuple[Tensor, ...], bias: Tensor | None, relevance: Tensor) -> Passed:
        return rules.alpha_beta_of(terms, None, relevance, alpha=1.0)
