"""What stands behind what in a network, as far as quantisers have to know it.

One pass of one image tells, with every operator that reads what a layer returned.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.models.layers import Sum
from trainables.models.outputs import Network
from trainables.models.shapes import evaluating


@dataclass
class Wiring:
    """Modules of a network by name.

    Attributes:
        layers: those that were called, in the order of the pass. One whose weights are used
            without calling it is not among them.
        norms: by layer, the BatchNorm that reads what the layer returns, where nothing else does
            and both run once: they can be one layer.
        sums: by `Sum`, the layer from which its own term is, the first one, directly or behind
            such a BatchNorm.
    """

    layers: list[str] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)


class _Reads(TorchDispatchMode):
    """Counts the operators that read watched tensors, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Tensor] = {}
        self.count: Counter[int] = Counter()

    def watch(self, tensor: Tensor) -> None:
        self.watched[id(tensor)] = tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        own = {id(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        self.count.update(own & self.watched.keys())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def wiring(network: Network, image: Tensor, kinds: Collection[type[nn.Module]]) -> Wiring:
    """How the layers of a network hang together.

    Args:
        network: it stays as it is; on the ``meta`` device this costs nothing.
        image: ``[1, C, H, W]``; what a pass of it computes is kept until its end.
        kinds: the very classes of the layers.
    """
    found, reads, calls = Wiring(), _Reads(), Counter[str]()
    sources: dict[int, str] = {}  # of tensors, the layer that they come from
    pairs: list[tuple[str, str, Tensor]] = []

    def behind_layer(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        calls[name] += 1
        reads.watch(output)
        sources[id(output)] = name

    def behind_norm(name: str, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] += 1
        layer = sources.get(id(given[0]))
        if layer is not None and id(given[0]) in reads.watched:
            pairs.append((layer, name, given[0]))
            reads.watch(output)  # kept, so that no other tensor gets its number
            sources[id(output)] = layer

    def before_sum(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        if id(given[0]) in sources:
            found.sums[name] = sources[id(given[0])]

    handles = []
    for name, module in network.named_modules():
        if type(module) in kinds:
            handles.append(module.register_forward_hook(partial(behind_layer, name)))
        elif type(module) is nn.BatchNorm2d and module.running_mean is not None:
            handles.append(module.register_forward_hook(partial(behind_norm, name)))
        elif type(module) is Sum:
            handles.append(module.register_forward_pre_hook(partial(before_sum, name)))
    try:
        with evaluating(network), reads:
            outputs = network(image)
    finally:
        for handle in handles:
            handle.remove()
    said = {id(one) for one in tree_leaves(tuple(outputs)) if isinstance(one, Tensor)}
    found.layers = [name for name in calls if type(network.get_submodule(name)) in kinds]
    for layer, norm, between in pairs:
        alone = reads.count[id(between)] == 1 and id(between) not in said
        if alone and calls[layer] == calls[norm] == 1:
            found.norms[layer] = norm
    return found
