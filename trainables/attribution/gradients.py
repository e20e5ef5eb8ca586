"""Gradients: how much a class's logit changes with each input value (saliency).

Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks: Visualising Image
Classification Models and Saliency Maps", ICLR 2014 workshop, arXiv 1312.6034, section 3. Of the
logit y^c and an image x,

    w = ∂y^c / ∂x        M_ij = max_k |w_kij|   over the channels k        (section 3.1)

What is attributed is w, with its sign; a map is M, which has none.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainables.attribution.differentiation import check_differentiable, input_gradient
from trainables.attribution.explainer import Explainer


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientsConfig:
    """It has no settings."""


class Gradients(Explainer):
    """The gradient of the class's logit with respect to the image."""

    Config: ClassVar[type] = GradientsConfig

    def check(self, images: Tensor) -> None:
        check_differentiable("gradients", self.network, images)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        return input_gradient(self.network, images, targets)

    def by_position(self, attributed: Tensor) -> Tensor:
        return attributed.abs().amax(1)
