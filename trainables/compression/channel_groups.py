"""Channels of a network that can only be cut together, found by Torch-Pruning's dependency graph.

Fang et al., DepGraph: Towards Any Structural Pruning (CVPR 2023). The library traces; what it
finds is used for edits of ours, so that a pruned network is built again without it.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.eca import ECA
from trainables.models.edits import Channels
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.models.resnet import ZeroPadShortcut
from trainables.models.shapes import blank_images, evaluating

Importance = Callable[[Any], Tensor | None]
"""A group with all its channels to the importance of each, ``[n]``; None where it has none."""


class ChannelGroups:
    """The groups of channels that may be cut.

    Not among them are the logits, the channels of convolutions of several groups other than
    depthwise ones, and those on which efficient channel attention works: it mixes neighbouring
    channels, and would see other neighbours.

    Args:
        network: of images; it stays as it is.
        image_shape: ``(C, H, W)``.
        fixed: names of convolutions and linear layers that keep all outputs, and with them those
            of all that go together with these.

    Attributes:
        sizes: number of channels of every group.
    """

    def __init__(
        self, network: Network, image_shape: ImageShape, fixed: Collection[str] = ()
    ) -> None:
        import torch_pruning as tp  # type: ignore[import-untyped]  # and torchvision with it

        self._traced = _traceable(network, image_shape)
        self._names = {module: name for name, module in self._traced.named_modules()}
        images = blank_images(self._traced, image_shape)
        with evaluating(self._traced), torch.enable_grad():
            self._graph: Any = tp.DependencyGraph().build_dependency(
                self._traced, example_inputs=images, output_transform=lambda said: said.logits
            )
            found = self._graph.get_all_groups(ignored_layers=[self._traced.classifier])
            self._groups = [group for group in found if self._may_be_cut(group, fixed)]
        self.sizes = [len(group[0].idxs) for group in self._groups]
        self._places = [self._places_of(group) for group in self._groups]

    def _may_be_cut(self, group: Any, fixed: Collection[str]) -> bool:
        for dep, _ in group:
            module = dep.target.module
            if self._names.get(module) in fixed and self._is_output(dep):
                return False
            if isinstance(module, nn.Conv2d) and module.groups not in (1, module.out_channels):
                return False
            if module is self._traced.classifier and self._is_output(dep):
                return False
            if self._names.get(module) and not isinstance(module, _CUTTABLE):
                return False  # attention, and what the edits do not know
        return not any(None in item.root_idxs for item in group)

    def _is_output(self, dep: Any) -> bool:
        return bool(self._graph.is_out_channel_pruning_fn(dep.handler))

    def importance(self, measure: Importance, gradients: nn.Module | None = None) -> list[Tensor]:
        """How much every channel of every group matters, ``[n]`` each, on the CPU.

        Args:
            measure: one of ``torch_pruning.importance``; a group of which it knows nothing counts
                as indispensable.
            gradients: a copy of the network whose parameters have gradients, where ``measure``
                reads them.
        """
        if gradients is not None:
            given = dict(gradients.named_parameters())
            for name, weight in self._traced.named_parameters():
                if name in given and given[name].shape == weight.shape:
                    weight.grad = given[name].grad
        found = []
        for group, size in zip(self._groups, self.sizes, strict=True):
            values = measure(group)
            found.append(
                torch.full((size,), torch.inf) if values is None else values.detach().float().cpu()
            )
        return found

    def filter_norms(self) -> list[Tensor]:
        """The L1 norm of the filters that write every channel of every group, ``[n]`` each."""
        found = []
        for group, size in zip(self._groups, self.sizes, strict=True):
            norms = torch.zeros(size)
            for item in group:
                module = item.dep.target.module
                if isinstance(module, nn.Conv2d | nn.Linear) and self._is_output(item.dep):
                    own = module.weight.detach().flatten(1).abs().sum(1).float().cpu()
                    norms.index_add_(0, torch.tensor(item.root_idxs), own[item.idxs])
            found.append(norms)
        return found

    def cut(self, removed: Sequence[Tensor]) -> Channels:
        """The edit that removes channels, wherever they are written and read.

        Args:
            removed: of every group, positions of its channels.
        """
        kept = self.kept(removed)
        places = [
            {name: mask.nonzero().flatten() for name, mask in kept[side].items()}
            for side in ("outputs", "inputs")
        ]
        return Channels.kept(*places)

    def kept(self, removed: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
        """Which outputs and inputs of which modules stay: a mask for each that loses some.

        Args:
            removed: as for `cut`.

        Returns:
            ``outputs`` and ``inputs``, by name of module, bool.
        """
        found: dict[str, dict[str, Tensor]] = {"outputs": {}, "inputs": {}}
        for places, channels, size in zip(self._places, removed, self.sizes, strict=True):
            lost = torch.zeros(size, dtype=torch.bool)
            lost[channels] = True
            for name, side, own, root in places if len(channels) else ():
                if name not in found[side]:
                    count = width(self._traced.get_submodule(name), side)
                    found[side][name] = torch.ones(count, dtype=torch.bool)
                found[side][name][own[lost[root]]] = False
        return found

    def _places_of(self, group: Any) -> list[tuple[str, str, Tensor, Tensor]]:
        """Where a group's channels are: module, side, positions there, and in the group."""
        found = []
        for item in group:
            dep, module = item.dep, item.dep.target.module
            if not isinstance(module, _CUTTABLE):
                continue  # a step without weights, such as a sum
            own, root = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
            found += [(self._names[module], side, own, root) for side in self._sides(dep)]
        return found

    def _sides(self, dep: Any) -> tuple[str, ...]:
        module = dep.target.module
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            return "outputs", "inputs"  # depthwise
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) or self._is_output(dep):
            return ("outputs",)
        return ("inputs",)


_CUTTABLE = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def width(module: nn.Module, side: str) -> int:
    """Number of ``outputs`` or ``inputs`` of a module that can be cut."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels if side == "outputs" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if side == "outputs" else module.in_features
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return module.num_features


class _Attention(nn.PReLU):
    """Stands where channel attention is: a step of every channel by itself that is not cut."""


def _traceable(network: Network, image_shape: ImageShape) -> Network:
    """A copy that depends on its channels as the network does, in words that the library knows.

    It takes the convolution of channel attention for a depthwise one, and a shortcut that pads
    with zero channels for one that keeps their order.
    """
    made = copy.deepcopy(network).requires_grad_(True)
    with _channels_seen(made) as seen, torch.no_grad(), evaluating(made):
        made(blank_images(made, image_shape))
    like: dict[str, Any] = {"device": next(made.parameters()).device}
    for name, (inputs, outputs) in seen.items():
        module = made.get_submodule(name)
        stands: nn.Module = _Attention(inputs, **like)
        if isinstance(module, ZeroPadShortcut):
            stands = nn.Conv2d(inputs, outputs, 1, module.stride, bias=False, **like)
        parent, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(parent), leaf, stands)
    return made


@contextmanager
def _channels_seen(network: nn.Module) -> Iterator[dict[str, tuple[int, int]]]:
    """Channels into and out of attention and zero-padded shortcuts by name, as a pass sees them."""
    seen: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = inputs[0].shape[1], output.shape[1]

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, ECA | ZeroPadShortcut)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
