"""SmoothGrad: gradients averaged over copies of the image with noise.

Smilkov, Thorat, Kim, Viégas, Wattenberg, "SmoothGrad: removing noise by adding noise", 2017,
arXiv 1706.03825, section 3. With the gradient M_c(x) = ∂y^c / ∂x,

    M̂_c(x) = (1/n) Σ_1^n M_c(x + N(0, σ²))        σ = noise · (x_max - x_min)

where x_max and x_min are the largest and smallest value of the image. The paper finds 10 to 20 %
of noise best and n = 50 enough (section 3.3).

What is attributed is M̂, with its sign; a map is max_k |M̂_k| over the channels k, as for
`gradients`: the mean is taken first, so that what changes its sign under noise vanishes. (captum's
NoiseTunnel around its Saliency takes absolute values first.) The noise is drawn from ``seed``
alone: the same n draws for every image of a size, whatever the batch and the device.
"""

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
class SmoothGradConfig:
    """Settings of SmoothGrad.

    Attributes:
        samples: n.
        noise: the standard deviation over the range of the image's values.
        seed: of the noise.
    """

    samples: int = setting(50, "copies of every image", at_least=1, search=(10, 50))
    noise: float = setting(
        0.15, "standard deviation of the noise over the image's range", above=0, search=(0.1, 0.2)
    )
    seed: int = setting(0, "of the noise, which is the same for all images", at_least=0)


class SmoothGrad(Explainer):
    """The mean gradient of noisy copies."""

    Config = SmoothGradConfig

    @classmethod
    def passes(cls, config: SmoothGradConfig) -> int:
        return config.samples

    def check(self, images: Tensor) -> None:
        check_differentiable("smooth_grad", self.network, images)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        config: SmoothGradConfig = self.config
        draw = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(config.samples, 1, *images.shape[1:], generator=draw).to(images.device)
        sigma = config.noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
        total = torch.zeros_like(images)
        for some in noise.split(samples_at_once(images)):
            variants = images + sigma.view(-1, 1, 1, 1) * some
            total += variant_gradients(self.network, variants, targets).sum(0)
        return total / config.samples

    def by_position(self, attributed: Tensor) -> Tensor:
        return attributed.abs().amax(1)
