"""A network with BatchNorm folded into its convolutions, for who runs it often as it is.

In evaluation mode a BatchNorm behind a convolution is a factor and a summand per output channel,
which the convolution can have in its own weights: the outputs stay the same to rounding, and half
of the passes over activations are gone.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from trainables.models.outputs import Network
from trainables.models.shapes import evaluating

TOLERANCE = 1e-4
"""Of the largest logit: a copy that differs by more is not used."""


@torch.no_grad()
def folded(network: Network, images: Tensor) -> Network:
    """A copy in evaluation mode whose BatchNorms are folded where that changes nothing.

    Folded are plain convolutions, called once, whose result goes through a plain BatchNorm, called
    once. Where logits of ``images`` then differ, because the result is read elsewhere as well, the
    copy is of the network as it is.

    Args:
        network: in any mode; it stays as it was.
        images: normalised, ``[B, C, H, W]``.
    """
    plain = copy.deepcopy(network).eval()
    with evaluating(network):
        pairs = _pairs(plain, images)
        expected = plain(images).logits
    changed = copy.deepcopy(plain)
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(
            changed.get_submodule(convolution),  # type: ignore[type-var]
            changed.get_submodule(norm),  # type: ignore[arg-type]
        )
        changed.set_submodule(convolution, fused)
        changed.set_submodule(norm, nn.Identity())
    bound = TOLERANCE * expected.abs().max().clamp_min(1.0)
    near = (changed(images).logits - expected).abs().max() <= bound
    return changed.eval() if near else plain


def _pairs(network: Network, images: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the BatchNorms that their results go to."""
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, given, result, name=name: calls.append((name, module, given[0], result))
        )
        for name, module in network.named_modules()
        if type(module) in (nn.Conv2d, nn.BatchNorm2d)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, *_ in calls]
    results = {
        id(result): name
        for name, module, _, result in calls
        if isinstance(module, nn.Conv2d) and names.count(name) == 1
    }
    return [
        (results[id(given)], name)
        for name, module, given, _ in calls
        if _foldable(module) and id(given) in results and names.count(name) == 1
    ]


def _foldable(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.running_var is not None
