"""GradientSHAP: the gradient between random baselines and the image, times the way to it.

Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017, arXiv
1705.07874, defines the values that it approximates (under independent inputs and a linear model
between baseline and image); the formula is that of expected gradients (Erion et al., "Improving
performance of deep learning models with axiomatic attribution priors and expected gradients",
Nature Machine Intelligence 2021, arXiv 1906.10670, equation 3):

    φ_i(x) = E_{x' ~ D, α ~ U(0, 1)} [ (x_i - x'_i) · ∂y^c(x' + α (x - x')) / ∂x_i ]

    Σ_i φ_i = y^c(x) - E_{x'} y^c(x')        in expectation

The baselines D: ``normal`` draws every value of x' from N(0, 1), which are mean and deviation of
normalised pixels, without any structure; ``zero`` is the mean colour of the training set, for
which φ is integrated gradients at random steps. No image of the data is a baseline: a map would
depend on which are there.

φ is signed, and a map is its sum over the channels. Draws come from ``seed`` alone, the same for
every image of a size, whatever the batch and the device; the n values of α are drawn one from each
n-th of (0, 1), in random order, which leaves the mean as it is and its variance smaller (captum
draws all at once).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.attribution.differentiation import (
    check_differentiable,
    samples_at_once,
    variant_gradients,
)
from trainables.attribution.explainer import Explainer
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientSHAPConfig:
    """Settings of GradientSHAP.

    Attributes:
        samples: n, draws of a baseline and of α.
        baselines: D.
        seed: of the draws.
    """

    samples: int = setting(50, "draws of a baseline and a point on the way", at_least=1)
    baselines: str = setting(
        "normal", "noise of N(0, 1), or the mean colour (zero)", choices=("normal", "zero")
    )
    seed: int = setting(0, "of the draws, which are the same for all images", at_least=0)


class GradientSHAP(Explainer):
    """Expected gradients from drawn baselines."""

    signed = True
    completeness = "f(x) - E f(x') in expectation"
    tolerance = 0.05  # from zero; from noise it is a matter of draws
    Config = GradientSHAPConfig

    @classmethod
    def passes(cls, config: GradientSHAPConfig) -> int:
        return config.samples

    def check(self, images: Tensor) -> None:
        check_differentiable("gradient_shap", self.network, images)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros_like(images)
        for starts, alphas in self._draws(images):
            way = images - starts
            slopes = variant_gradients(self.network, starts + alphas * way, targets)
            total += (way * slopes).sum(0)
        return total / self.config.samples

    @torch.no_grad()
    def expected_sum(self, images: Tensor, targets: Tensor) -> Tensor:
        """With the mean over the drawn baselines in place of the expectation."""
        starts = torch.cat([some[:, 0] for some, _ in self._draws(images[:1])])
        of_starts = self.network(starts).logits.mean(0)[targets]
        chosen = self.network(images).logits.gather(1, targets.unsqueeze(1))
        return chosen[:, 0].float() - of_starts.float()

    def _draws(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some baselines ``[S, 1, C, H, W]`` and values of α ``[S, 1, 1, 1, 1]`` at a time."""
        config: GradientSHAPConfig = self.config
        draw = torch.Generator().manual_seed(config.seed)
        order = torch.randperm(config.samples, generator=draw)
        alphas = (order + torch.rand(config.samples, generator=draw)) / config.samples
        starts = torch.zeros(config.samples, 1, *images.shape[1:])
        if config.baselines == "normal":
            starts = torch.randn(starts.shape, generator=draw)
        at_once = samples_at_once(images)
        for some, points in zip(starts.split(at_once), alphas.split(at_once), strict=True):
            yield some.to(images.device), points.view(-1, 1, 1, 1, 1).to(images.device)
