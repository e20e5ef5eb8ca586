"""What quantisers take from images: what layers are given, and statistics of BatchNorm.

Images are gathered first and go through the network in batches of this file's own, so that the
batches in which they came decide nothing.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.compression.step import Scene
from trainables.models.outputs import Network
from trainables.models.shapes import evaluating
from trainables.once import warn_once
from trainables.settings import setting

log = logging.getLogger(__name__)

BATCH = 64


def say_what_stays(step: str, network: Network, layers: Collection[str]) -> None:
    """Warns, once, of weights that a step leaves in floating point.

    Args:
        step: its name.
        network: the student.
        layers: names of the modules whose weights it quantises.
    """
    weights = {f"{name}.weight" for name in layers}
    others = [n for n, w in network.named_parameters() if w.ndim > 1 and n not in weights]
    if others:
        names = ", ".join(others[:5]) + (", ..." if others[5:] else "")
        count = f"{len(others)} weights stay" if others[1:] else "a weight stays"
        where = network.blueprint.label
        warn_once(log, f"{step}: {count} in floating point in {where}: {names}")


def looked_at(scene: Scene, count: int) -> Tensor:
    """So many training images of a scene, ``[count, C, H, W]``, or all where there are fewer."""
    return torch.cat([images for images, _ in scene.batches(count)])


@dataclass(kw_only=True)
class Inputs:
    """What a layer was given.

    Attributes:
        sizes: sum of the absolute values, a float64 scalar.
        count: number of values.
        least: of all values, a scalar.
    """

    sizes: Tensor
    count: int
    least: Tensor

    @property
    def mean(self) -> Tensor:
        """Of the absolute values, float64."""
        return self.sizes / self.count


@torch.no_grad()
def inputs_of(
    network: nn.Module, images: Tensor, kinds: Collection[type[nn.Module]]
) -> dict[str, Inputs]:
    """What layers are given where the network sees images in evaluation mode.

    Args:
        network: it stays as it is; on the ``meta`` device it costs nothing.
        images: normalised, ``[B, C, H, W]``.
        kinds: the very classes of the layers.

    Returns:
        By name, in the order of the pass. A layer whose weights are used without calling it is
        not among them.
    """
    found: dict[str, Inputs] = {}
    names = {module: name for name, module in network.named_modules() if type(module) in kinds}

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        values: Tensor = given[0]
        sizes, least = values.abs().sum(dtype=torch.float64), values.min()
        before = found.get(names[module])
        found[names[module]] = Inputs(
            sizes=before.sizes + sizes if before else sizes,
            count=values.numel() + (before.count if before else 0),
            least=torch.minimum(before.least, least) if before else least,
        )

    with evaluating(network), _before(names, note):
        for part in images.split(BATCH):
            network(part)
    return found


def bn_images() -> Any:
    """The setting of a quantiser that re-estimates statistics."""
    return setting(
        0,
        "training images from which BatchNorm's statistics are taken anew; 0: they stay",
        at_least=0,
        implied=(0,),
    )


def re_estimate_statistics(scene: Scene, count: int) -> None:
    """Takes BatchNorm's running mean and variance anew, from training images at once.

    Every BatchNorm is given what those before it make of the images with their new statistics.
    Of one that runs several times the last counts. Memory is that of a pass of so many images.

    Args:
        scene: its network is changed in place, in evaluation mode.
        count: of images; 0: everything stays as it is.
    """
    if not count:
        return
    norms = [
        module
        for module in scene.network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    with torch.no_grad(), evaluating(scene.network), _before(norms, _take):
        scene.network(looked_at(scene, count))


def _take(module: Any, given: tuple[Any, ...]) -> None:
    values: Tensor = given[0]
    axes = [axis for axis in range(values.ndim) if axis != 1]
    several = values.numel() > values.shape[1]  # as training has it: without bias
    variance, mean = torch.var_mean(values, axes, correction=1 if several else 0)
    module.running_mean.copy_(mean)
    module.running_var.copy_(variance)


@contextmanager
def _before(modules: Collection[nn.Module], note: Callable[..., None]) -> Iterator[None]:
    """Calls ``note`` with a module and its inputs before it computes, within the context."""
    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
