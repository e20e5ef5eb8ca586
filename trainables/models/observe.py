"""What a network in training says, without a trace in it."""

from collections.abc import Callable, Collection

from torch import Tensor, nn

from trainables.models.features import with_features
from trainables.models.outputs import Network, Outputs


def observe(
    network: Network,
    images: Tensor,
    keys: Collection[str] = (),
    shares: Callable[[int], Tensor] | None = None,
    chosen: Tensor | None = None,
) -> Outputs:
    """Outputs in the network's present mode, without gradients.

    In training mode BatchNorm normalises with the batch's statistics and dropout draws; the
    running statistics stay as they are, so that they see every batch once, however often
    somebody looks.

    Args:
        network: in either mode.
        images: normalised, ``[B, C, H, W]``.
        keys, shares, chosen: as for `with_features`.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        return with_features(network, images, keys, shares, learning=False, chosen=chosen)
    finally:
        for norm in norms:
            norm.track_running_stats = True
