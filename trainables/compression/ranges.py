"""The ranges in which the inputs of modules lie, from images.

As all calibration, in batches that do not depend on those in which the images came.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.compression.calibration import BATCH
from trainables.models.grid import Grid
from trainables.models.shapes import evaluating

BINS = 2048
_SHARES = torch.linspace(0.2, 1.0, 81, dtype=torch.float64)

Place = tuple[str, int]
"""The name of a module, and which of its inputs."""
Range = tuple[float, float]

CHOICES = ("minmax", "mse")


def grids_of(
    network: nn.Module, images: Tensor, names: Collection[str], choice: str
) -> dict[Place, Grid]:
    """The grid of every input of modules where the network sees images in evaluation mode.

    Args:
        network: it stays as it is.
        images: normalised, ``[B, C, H, W]``.
        names: of the modules.
        choice: one of `CHOICES`. ``minmax``: from the least to the greatest value. ``mse``: of 81
            shares of that range, from a fifth to all of it, the one with the least squared error
            of the values, each taken for the middle of its bin of `BINS`.
    """
    ranges: dict[Place, tuple[Tensor, Tensor]] = {}

    def widen(place: Place, values: Tensor) -> None:
        least, greatest = values.min(), values.max()
        if place in ranges:
            before = ranges[place]
            least, greatest = least.minimum(before[0]), greatest.maximum(before[1])
        ranges[place] = least, greatest

    _listen(network, images, names, widen)
    found = {place: (float(least), float(greatest)) for place, (least, greatest) in ranges.items()}
    if choice == "minmax":
        return {place: Grid.covering(*ends) for place, ends in found.items()}
    counts = {place: torch.zeros(BINS, dtype=torch.float64) for place in found}

    def count(place: Place, values: Tensor) -> None:
        least, greatest = found[place]
        counts[place] += torch.histc(values.float(), BINS, least, greatest).cpu().double()

    _listen(network, images, names, count)
    return {place: _least_error(found[place], counts[place]) for place in found}


def _least_error(ends: Range, counts: Tensor) -> Grid:
    least, greatest = ends
    width = (greatest - least) / BINS
    middles = least + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
    candidates = [Grid.covering(share * least, share * greatest) for share in _SHARES.tolist()]
    steps = torch.tensor([[one.scale] for one in candidates], dtype=torch.float64)
    zeros = torch.tensor([[one.zero_point] for one in candidates], dtype=torch.float64)
    nearest = steps * (((middles / steps).round() + zeros).clamp(0, 255) - zeros)
    errors = (nearest - middles).square() @ counts
    return candidates[int(errors.argmin())]


@torch.no_grad()
def _listen(
    network: nn.Module,
    images: Tensor,
    names: Collection[str],
    note: Callable[[Place, Tensor], None],
) -> None:
    def hear(name: str, _: nn.Module, given: tuple[Any, ...]) -> None:
        for position, values in enumerate(given):
            note((name, position), values)

    handles = [
        network.get_submodule(name).register_forward_pre_hook(partial(hear, name)) for name in names
    ]
    try:
        with evaluating(network):
            for part in images.split(BATCH):
                network(part)
    finally:
        for handle in handles:
            handle.remove()
