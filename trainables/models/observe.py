"""What a network in training says, without a trace in it."""

import torch
from torch import Tensor, nn

from trainables.models.outputs import Network, Outputs


@torch.no_grad()
def observe(network: Network, images: Tensor) -> Outputs:
    """Outputs in the network's present mode, without gradients.

    In training mode BatchNorm normalises with the batch's statistics and dropout draws; the
    running statistics stay as they are, so that they see every batch once, however often
    somebody looks.

    Args:
        network: in either mode.
        images: normalised, ``[B, C, H, W]``.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        outputs: Outputs = network(images)
    finally:
        for norm in norms:
            norm.track_running_stats = True
    return outputs
