"""Explanations of images by a network, in batches, which leave the network as it was."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainables.attribution.registry import EXPLAINERS
from trainables.models.outputs import Network

BATCH = 64


def explain(
    network: Network,
    explainers: Mapping[str, Any],
    images: Tensor,
    targets: Tensor,
    batch: int = BATCH,
) -> dict[str, Tensor]:
    """The maps of images by every explainer.

    The network is explained in evaluation mode and fp32, and is afterwards bit for bit what it
    was, in its mode, whatever happens.

    Args:
        network: with weights.
        explainers: configs by name, as `resolve_explainers` gives them.
        images: normalised, ``[N, C, H, W]``, on the network's device.
        targets: the class for which each image is explained, int64 ``[N]``.
        batch: images at once.

    Returns:
        By explainer ``[N, H, W]`` float32.

    Raises:
        UserError: an explainer that this network cannot have; targets that do not fit.
    """
    mode = network.training
    network.eval()
    try:
        made = {name: EXPLAINERS[name](config, network) for name, config in explainers.items()}
        return {
            name: torch.cat(
                [
                    one.maps(pixels, classes)
                    for pixels, classes in zip(
                        images.split(batch), targets.split(batch), strict=True
                    )
                ]
            )
            for name, one in made.items()
        }
    finally:
        network.train(mode)
