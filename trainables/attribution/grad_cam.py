"""Grad-CAM: the feature maps of a layer, weighted by what the class's logit gains from them.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, arXiv 1610.02391, section 3. With the feature maps A^k of a layer, of
Z positions, and the logit y^c,

    α_k = (1/Z) Σ_ij ∂y^c / ∂A^k_ij        L = ReLU( Σ_k α_k A^k )        (equations 1, 2)

L is not negative and has the layer's positions; a map is L, interpolated to the image's size. A
class that nothing in the layer speaks for has a map of zeros. The paper takes the last
convolutional layer; ``layer: last`` takes the last stage: what the last block returns, behind its
addition and its ReLU. In a network that shrinks images to one position there, a map is constant,
and an earlier stage says more. Of quantised layers behind it, gradients go straight through the
rounding.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.attribution.explainer import Explainer
from trainables.attribution.layers import LAST, Layer, find_layer, label, read_layer
from trainables.errors import UserError
from trainables.settings import setting

KEY = "grad_cam.layer"


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """L: ``[B, h, w]``, at least 0.

    Args:
        features: A, ``[B, C, h, w]``.
        gradients: ∂y^c / ∂A, of the same shape.
    """
    weights = gradients.mean((2, 3), keepdim=True)
    return F.relu((weights * features).sum(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class GradCAMConfig:
    """Settings of Grad-CAM.

    Attributes:
        layer: whose feature maps are read.
    """

    layer: str = setting(LAST, "last or a number: a stage, from 0; or module:NAME")


class GradCAM(Explainer):
    """Grad-CAM at any layer with feature maps.

    Raises:
        UserError: the layer is not there, has no positions, or no logit depends on it.
    """

    Config: ClassVar[type] = GradCAMConfig
    layer: Layer | None = None

    def check(self, images: Tensor) -> None:
        self.layer = find_layer(KEY, self.config.layer, self.network, images)
        self._read(images, torch.zeros(1, dtype=torch.int64, device=images.device))

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        if self.layer is None:
            self.check(images[:1])
        return grad_cam(*self._read(images, targets)).unsqueeze(1)

    def _read(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the layer, and the gradients of the targets' logits, ``[B, C, h, w]``."""
        assert self.layer is not None
        logits, features = read_layer(self.network, self.layer, images)
        if features.requires_grad and logits.requires_grad:
            chosen = logits.gather(1, targets.unsqueeze(1)).sum()
            (found,) = torch.autograd.grad(chosen, features, allow_unused=True)
            if found is not None:
                return features.detach(), found
        raise UserError(
            f"{KEY}: no logit of {label(self.network)} depends on the feature maps of "
            f"{self.config.layer!r}"
        )
