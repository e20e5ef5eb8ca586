"""A network beside itself with other weights, layer by layer, in one pass.

Data-driven quantisation wants for each layer the inputs that it gets in the given network and in
the network whose earlier layers are changed already. Both go through the network as the two halves
of one batch: each layer is changed when its inputs arrive, and computes either half with its own
weights. No activation is stored, and none is computed twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.outputs import Network

Change = Callable[[str, nn.Module, Tensor, Tensor], Tensor]
"""Name, layer, inputs, and inputs behind changed layers, to the layer's new weight."""


def layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of a network by name."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@torch.no_grad()
def changed_weights(network: Network, images: Tensor, change: Change) -> dict[str, Tensor]:
    """The new weights of every convolution and linear layer that a pass comes to.

    Args:
        network: in evaluation mode; it is left as it was.
        images: normalised, ``[B, C, H, W]``. Memory is that of a pass of twice as many.
        change: called once for each layer, in the order of the pass.

    Returns:
        By the name of the layer. One whose weights are used without calling it is not among them.
    """
    found: dict[str, Tensor] = {}
    with _replaced(network, change, found):
        network(torch.cat([images, images]))
    return found


@contextmanager
def _replaced(network: nn.Module, change: Change, found: dict[str, Tensor]) -> Iterator[None]:
    every = layers(network)
    try:
        for name, layer in every.items():
            layer.__dict__["forward"] = _both(name, layer, change, found)
        yield
    finally:
        for layer in every.values():
            layer.__dict__.pop("forward", None)


def _both(
    name: str, layer: nn.Module, change: Change, found: dict[str, Tensor]
) -> Callable[[Tensor], Tensor]:
    plain: Any = type(layer).forward
    weight: Any = layer.weight

    def forward(inputs: Tensor) -> Tensor:
        own, other = inputs.chunk(2)
        if name not in found:
            found[name] = change(name, layer, own, other)
        said, given = plain(layer, own), weight.data
        weight.data = found[name]
        try:
            return torch.cat([said, plain(layer, other)])
        finally:
            weight.data = given

    return forward


def patches(layer: nn.Module, inputs: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """What the rows of a layer's weight are multiplied with.

    Args:
        layer: a convolution, of any stride, dilation, padding and number of groups, or a linear
            layer.
        inputs: of the layer, ``[B, C, H, W]`` or ``[B, ..., d]``.
        share: of the positions of a convolution that are taken, in (0, 1]: the same ones of every
            image, at least one.
        generator: of the positions.

    Returns:
        ``[groups, m, d]``, m = B times positions.
    """
    if not isinstance(layer, nn.Conv2d):
        return inputs.reshape(1, -1, inputs.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    images, _, height, width = padded.shape
    rows = _starts(height, layer, 0)[:, None] * width + _starts(width, layer, 1)
    kept = max(1, round(share * rows.numel()))
    drawn = torch.randperm(rows.numel(), generator=generator)[:kept].sort().values
    where = rows.flatten()[drawn]
    down, along = (
        torch.arange(size) * gap
        for size, gap in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    reach = (down[:, None] * width + along).flatten()
    pixels = (where[:, None] + reach).flatten().to(inputs.device)
    found = padded.flatten(2)[:, :, pixels].view(images, layer.groups, -1, kept, len(reach))
    return found.permute(1, 0, 3, 2, 4).reshape(layer.groups, images * kept, -1)


def _starts(size: int, layer: nn.Conv2d, axis: int) -> Tensor:
    """Where the kernel begins along an axis of the padded images."""
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
    return torch.arange(0, size - reach, layer.stride[axis])
