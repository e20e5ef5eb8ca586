"""LRP: layer-wise relevance propagation.

The logit z_c of a class is its relevance, and every sum j passes its own on to what it adds, in
proportion to the contributions z_ij = x_i w_ij:

    epsilon      R_i = Σ_j z_ij / (z_j + ε sign(z_j)) R_j
    alpha-beta   R_i = Σ_j (α z_ij⁺ / Σ_i z_ij⁺ - β z_ij⁻ / Σ_i z_ij⁻) R_j        α - β = 1
    z-box        R_i = Σ_j (x_i w_ij - l w_ij⁺ - h w_ij⁻) / Σ_i (...) R_j         of the images

Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
Relevance Propagation, PLoS ONE 2015, equations 58 and 60; z-box: Montavon et al., Pattern
Recognition 2017, section 4.2. The default is the composite of Montavon et al., Layer-Wise
Relevance Propagation: An Overview, 2019, section 10.3, as Kohlbrenner et al., IJCNN 2020, have
it: epsilon at linear layers, alpha-beta elsewhere, z-box at the images.

Additions of residual blocks and averages are sums like others. A BatchNorm that stands alone is
one of a scaled value and a bias. Activations have the relevance of what they return, of a maximum
the largest value has all, gates have none (`trainables.attribution.steps`).

Biases: the denominators of epsilon hold them, and so they absorb their share; those of z-box do
not. Of alpha-beta both are in use: without them (as Montavon et al. 2017 and the released code of
RAP) the relevance of the images adds up to the logit, but for what the biases of linear layers
absorb; with them (as zennit) a deep network may lose most of it.
"""

from dataclasses import dataclass

from torch import Tensor

from trainables.attribution import rules
from trainables.attribution.propagation import Propagated, Rule
from trainables.attribution.rules import Passed
from trainables.attribution.steps import Linear
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class LRPConfig:
    """Settings of LRP.

    Attributes:
        rule: of sums that are not of the images.
        alpha, epsilon: of the rules of these names.
        first: of the layers that read the images.
        biases: whether they are contributions of alpha-beta.
    """

    rule: str = setting(
        "composite",
        "at linear layers epsilon and elsewhere alpha_beta (composite), or one of them everywhere",
        choices=("composite", "alpha_beta", "epsilon"),
    )
    alpha: float = setting(1.0, "α of alpha_beta; β is α - 1", at_least=1.0, search=(1.0, 2.0))
    epsilon: float = setting(1e-6, "ε of epsilon, in units of what a layer adds", above=0.0)
    first: str = setting(
        "z_box",
        "where weights meet images: z_box, from the least to the greatest value of each, or same",
        choices=("z_box", "same"),
    )
    biases: bool = setting(False, "whether biases absorb their share in alpha_beta")


class LRP(Propagated):
    """Layer-wise relevance propagation from the logit of a class, which is its start."""

    signed = True
    completeness = "f(x) - what biases absorb"
    name = "lrp"
    Config = LRPConfig

    def rule(self) -> Rule:
        return LRPRule(self.config)


class LRPRule(Rule):
    """The rules of LRP by kind of layer."""

    def __init__(self, config: LRPConfig) -> None:
        self.config = config

    def first(self, step: Linear, x: Tensor, relevance: Tensor) -> Passed:
        if self.config.first == "z_box":
            return rules.z_box(step, x, relevance)
        return self.linear(step, x, relevance)

    def linear(self, step: Linear, x: Tensor, relevance: Tensor) -> Passed:
        dense = step.weight is not None and step.weight.ndim == 2
        if self.config.rule == "epsilon" or (self.config.rule == "composite" and dense):
            return rules.epsilon(step, x, relevance, self.config.epsilon)
        return rules.alpha_beta(step, x, relevance, self.config.alpha, self.config.biases)

    def added(self, terms: tuple[Tensor, ...], bias: Tensor | None, relevance: Tensor) -> Passed:
        if self.config.rule == "epsilon":
            return rules.epsilon_of(terms, bias, relevance, self.config.epsilon)
        counted = bias if self.config.biases else None
        return rules.alpha_beta_of(terms, counted, relevance, self.config.alpha)
