"""Gradients of logits with respect to images, many at once.

Of quantised layers they are those that training has: straight through the rounding
(`trainables.models.fake_quantised`, `trainables.models.int8`).
"""

import torch.nn.functional as F
from torch import Tensor

from trainables.attribution.layers import label
from trainables.errors import UserError
from trainables.models.features import INPUT_GRADIENT, with_features
from trainables.models.outputs import Network

MOST = 256
"""Images at once, of small ones."""

PIXELS = 2**18
"""Pixels at once, of larger ones: five images of 227x227, whose activations are all kept."""


def images_at_once(images: Tensor) -> int:
    """How many images of a size are differentiated at once, at least one.

    Args:
        images: ``[..., H, W]``.
    """
    height, width = images.shape[-2:]
    return max(1, min(MOST, PIXELS // (height * width)))


def samples_at_once(images: Tensor) -> int:
    """How many variants of every image of a batch are differentiated at once, at least one.

    Args:
        images: ``[B, C, H, W]``.
    """
    return max(1, images_at_once(images) // len(images))


def input_gradient(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    """∂y^c / ∂x of every image: ``[B, C, H, W]`` float32.

    Args:
        network: in evaluation mode, so that no image's logit depends on another image.
        images: x, ``[B, C, H, W]``.
        targets: c, int64 ``[B]``.
    """

    def shares(classes: int) -> Tensor:
        return F.one_hot(targets, classes).float()

    outputs = with_features(network, images, {INPUT_GRADIENT}, shares, learning=False)
    return outputs.features[INPUT_GRADIENT]


def variant_gradients(network: Network, variants: Tensor, targets: Tensor) -> Tensor:
    """∂y^c / ∂x at variants of every image: ``[S, B, C, H, W]`` float32.

    Args:
        network: as for `input_gradient`.
        variants: ``[S, B, C, H, W]``.
        targets: c of every image, int64 ``[B]``.
    """
    found = input_gradient(network, variants.flatten(0, 1), targets.repeat(len(variants)))
    return found.view_as(variants)


def check_differentiable(name: str, network: Network, images: Tensor) -> None:
    """Whether logits of a network have gradients with respect to its images.

    Args:
        name: of the explainer that wants them.
        network: in evaluation mode.
        images: ``[1, C, H, W]``.

    Raises:
        UserError: they have none.
    """
    if not network(images.detach().requires_grad_()).logits.requires_grad:
        raise UserError(f"{name}: the logits of {label(network)} have no gradient to its images")
