"""Structured pruning: whole channels go, until the network is as small as it is asked to be.

Li et al., Pruning Filters for Efficient ConvNets (ICLR 2017) for the L1 norm; Liu et al., Learning
Efficient Convolutional Networks through Network Slimming (ICCV 2017) for BatchNorm's scale;
Molchanov et al., Importance Estimation for Neural Network Pruning (CVPR 2019) for Taylor's
expansion; Fang et al., DepGraph (CVPR 2023) for channels that go together; Park et al.,
Attribution Preservation in Network Compression (NeurIPS 2020) for the layers of ``vgg2020``.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.compression.channel_groups import ChannelGroups, width
from trainables.compression.layer_choice import ALL, VGG2020, chosen_layers
from trainables.compression.lockstep import layers
from trainables.compression.measure import count_macs, count_params
from trainables.compression.rounds import evenly
from trainables.compression.step import Scene, Span, Step
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, Edit, build
from trainables.models.edits import Channels
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.models.shapes import blank_images, evaluating
from trainables.settings import setting

TOLERANCE = 0.05
"""Relative: a network that misses the requested factor by more is refused."""

_HALVINGS = 16


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """See `Prune`."""

    amount: float = setting(
        2.0,
        "how many times smaller, in what prune.of counts",
        above=1,
        search=(1.2, 8.0),
        log=True,
    )
    of: str = setting("macs", "what the factor counts", choices=("macs", "params"))
    criterion: str = setting(
        "l1",
        "what makes a channel matter: norm of all its weights, or of its filters alone; "
        "BatchNorm's scale, Taylor's first order on training images, or chance",
        choices=("l1", "l2", "filter_l1", "bn_scale", "taylor", "random"),
    )
    scope: str = setting(
        "global",
        "what is compared: all channels, or those of a layer, of which equal shares go",
        choices=("global", "layer"),
    )
    layers: str = setting(
        ALL,
        "which layers may lose outputs: all; vgg2020 (conv1, conv4_x and conv5_x of a VGG); or "
        "patterns of their names joined by commas, such as layer1.*.conv1",
        implied=(ALL,),
    )
    least: float = setting(
        0.1, "share of a layer's channels that stays in any case", at_least=0, at_most=1
    )
    rounds: int = setting(1, "in which the factor is reached", at_least=1)
    begin: float = setting(
        0.0, "share of the training before the first round", at_least=0, at_most=1
    )
    end: float = setting(0.0, "share of the training before the last round", at_least=0, at_most=1)
    images: int = setting(256, "training images that Taylor's criterion looks at", at_least=1)


class Prune(Step):
    """Cuts the channels that matter least, at once or in rounds with training between them.

    The first round falls on ``begin``, the last on ``end``; every round makes the network smaller
    by the same factor. At least one channel of every group stays. What cannot be cut is said by
    `ChannelGroups`.

    The norms ``l1`` and ``l2`` are those of a channel's filters, of BatchNorm's scale and of the
    weights that read it, over their mean in the layer; ``filter_l1`` is that of Li et al.

    The structured recipe of Park et al. is ``layers: vgg2020``, ``scope: layer`` and ``criterion:
    filter_l1``: equal shares of the first and the last layers of a VGG. Their shares of 0.3,
    0.5 and 0.7 of a VGG-16 for images of 227 pixels and 20 classes are factors of 1.755, 2.762 and
    4.657 of ``params``. Their code scrambles the classifier's columns; here they belong to the
    channels that stay.
    """

    Config = PruneConfig
    config: PruneConfig
    cuts = True

    def __init__(self, config: PruneConfig) -> None:
        super().__init__(config)
        if config.criterion == "filter_l1" and config.scope != "layer":
            raise UserError(
                "prune.criterion: filter_l1 compares filters of equal size; set prune.scope: layer"
            )
        self.moments = evenly(config.rounds, config.begin, config.end, "prune")

    def check(self, network: Network, image_shape: ImageShape) -> None:
        groups = self._groups(network, image_shape)
        cost = Cost(network, image_shape, self.config.of, network.blueprint)
        smallest = cost.whole / cost.of(groups.kept(self._all_but_least(groups)))
        if smallest < self.config.amount * (1 - TOLERANCE):
            within = "" if self.config.layers == ALL else f" of {self.config.layers}"
            raise UserError(
                f"prune: {self.config.amount:g} times fewer {self.config.of} cannot be reached: "
                f"{network.blueprint.model} becomes at most {smallest:.3g} times smaller where "
                f"{self.config.least:g} of a layer's channels stay{within}"
            )
        if self.config.scope == "layer":
            # How many go does not depend on which matter; later rounds have another network.
            values = [torch.arange(float(size)) for size in groups.sizes]
            self._share(groups, values, cost, self._wanted(1))

    def _groups(self, network: Network, image_shape: ImageShape) -> ChannelGroups:
        chosen = chosen_layers(network, self.config.layers, "prune.layers")
        groups = ChannelGroups(network, image_shape, {*layers(network)} - chosen)
        if not groups.sizes and self.config.layers != ALL:
            raise UserError(
                f"prune.layers: none of {self.config.layers} can be cut by itself; channels that "
                "meet in a sum go together, so that all layers that write them have to be named"
            )
        return groups

    def _wanted(self, done: int) -> float:
        """The factor behind so many rounds."""
        return float(self.config.amount ** (done / len(self.moments)))

    def spans(self) -> Mapping[str, Span]:
        reached = (1 / (self.config.amount * (1 + TOLERANCE)), (1 + TOLERANCE) / self.config.amount)
        return {**super().spans(), self.config.of: reached}

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        network, shape = scene.network, scene.image_shape
        groups = self._groups(network, shape)
        values = self._importance(groups, scene)
        cost = Cost(network, shape, self.config.of, scene.began)
        wanted = self._wanted(self.moments.index(moment) + 1)
        share = self._share(groups, values, cost, wanted)
        cut = groups.cut(self._removed(values, share))
        return [cut] if cut != Channels() else []

    def _share(
        self, groups: ChannelGroups, values: Sequence[Tensor], cost: "Cost", wanted: float
    ) -> float:
        """The share of channels to cut for a factor."""

        def reached(share: float) -> float:
            return cost.whole / cost.of(groups.kept(self._removed(values, share)))

        share, factor = nearest(reached, wanted)
        if abs(math.log(factor / wanted)) > math.log(1 + TOLERANCE):
            raise UserError(
                f"prune: {wanted:g} times fewer {self.config.of} cannot be reached: the nearest "
                f"network is {factor:.3g} times smaller"
            )
        return share

    def _importance(self, groups: ChannelGroups, scene: Scene) -> list[Tensor]:
        from torch_pruning import importance  # type: ignore[import-untyped]

        kind = self.config.criterion
        if kind == "filter_l1":
            return groups.filter_norms()
        if kind == "random":
            return [torch.rand(size, generator=scene.generator) for size in groups.sizes]
        if kind == "taylor":
            return groups.importance(importance.GroupTaylorImportance(), self._gradients(scene))
        if kind == "bn_scale":
            return groups.importance(importance.BNScaleImportance())
        return groups.importance(importance.GroupMagnitudeImportance(p=1 if kind == "l1" else 2))

    def _gradients(self, scene: Scene) -> nn.Module:
        """A copy of the network with the gradients of the cross-entropy of some images."""
        made: Any = copy.deepcopy(scene.network).requires_grad_(True)
        with torch.enable_grad():
            for images, target in scene.batches(self.config.images):
                loss = scene.task.cross_entropy(made(images).logits.float(), target)
                (len(images) * loss).backward()
        return made

    def _removed(self, values: Sequence[Tensor], share: float) -> list[Tensor]:
        """Of every group the channels to cut: about so large a share of all, the least first."""
        sizes = [len(one) for one in values]
        if self.config.scope == "layer":
            counts = [self._count(share, size) for size in sizes]
        else:
            first = torch.cat([*values]).argsort(stable=True)[: round(share * sum(sizes))]
            gone = torch.zeros(sum(sizes), dtype=torch.bool)
            gone[first] = True
            counts = [int(part.sum()) for part in gone.split(sizes)]
        return [
            one.argsort(stable=True)[: min(count, len(one) - self._least(len(one)))]
            for one, count in zip(values, counts, strict=True)
        ]

    def _count(self, share: float, size: int) -> int:
        if self.config.layers == VGG2020:
            return size - int(size * (1 - share))  # as Park et al. round
        return round(share * size)

    def _least(self, channels: int) -> int:
        return max(1, math.ceil(self.config.least * channels))

    def _all_but_least(self, groups: ChannelGroups) -> list[Tensor]:
        return [torch.arange(size - self._least(size)) for size in groups.sizes]


def nearest(reached: Callable[[float], float], wanted: float) -> tuple[float, float]:
    """The share whose factor is nearest to a wanted one on a logarithmic scale, and that factor.

    Args:
        reached: from a share in [0, 1] to a factor; it grows.
        wanted: at least 1.
    """
    low, high = 0.0, 1.0
    tried = {share: reached(share) for share in (low, high)}
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried[middle] = reached(middle)
        low, high = (middle, high) if tried[middle] < wanted else (low, middle)
    return min(tried.items(), key=lambda pair: (abs(math.log(pair[1] / wanted)), pair[0]))


class Cost:
    """What a network costs with some of its channels cut, from what each layer costs whole.

    Args:
        network: as it is.
        image_shape: ``(C, H, W)``.
        of: ``macs`` or ``params``.
        began: what it was before the first step; channels cut since then count in ``whole``. None:
            the model as it is named.

    Attributes:
        whole: of the network before any channel was cut.
    """

    def __init__(
        self, network: Network, image_shape: ImageShape, of: str, began: Blueprint | None = None
    ) -> None:
        count = count_params if of == "params" else lambda one: count_macs(one, image_shape)
        first = began.edits if began else ()
        since = network.blueprint.edits[len(first) :]
        others = (one for one in since if not isinstance(one, Channels))
        blueprint = Blueprint(network.blueprint.model, (*first, *others))
        with torch.device("meta"):
            made = build(blueprint, network.classifier.out_features, image_shape)
        self.whole = count(made)
        self._parts = [
            (name, both, cost)
            for name, module in network.named_modules()
            for both, cost in _parts(module, of)
        ]
        if of == "macs":
            calls = _positions(network, image_shape)
            self._parts = [(n, both, cost * calls.get(n, 0)) for n, both, cost in self._parts]
        self._others = count(network) - sum(cost for _, _, cost in self._parts)

    def of(self, kept: Mapping[str, Mapping[str, Tensor]]) -> float:
        """With these outputs and inputs of modules, as `ChannelGroups.kept` gives them."""
        left = {
            side: {name: mask.float().mean().item() for name, mask in masks.items()}
            for side, masks in kept.items()
        }
        total = float(self._others)
        for name, both, cost in self._parts:
            share = left["outputs"].get(name, 1.0)
            total += cost * (share * left["inputs"].get(name, 1.0) if both else share)
        return total


def _parts(module: nn.Module, of: str) -> list[tuple[bool, int]]:
    """What a layer's weights count, and whether outputs and inputs both decide how many they are:
    those of a depthwise convolution have one side."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        both = isinstance(module, nn.Linear) or module.groups == 1
        bias = [(False, module.bias.numel())] if module.bias is not None and of == "params" else []
        return [(both, module.weight.numel()), *bias]
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and of == "params":
        return [(False, sum(weight.numel() for weight in module.parameters()))]
    return []


def _positions(network: Network, image_shape: ImageShape) -> dict[str, int]:
    """At how many positions of one image every convolution and linear layer computes."""
    found: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            outputs = width(module, "outputs")
            found[name] = found.get(name, 0) + output.numel() // outputs

        return hook

    made: Any = copy.deepcopy(network).to("meta")
    for name, layer in layers(made).items():
        layer.register_forward_hook(note(name))
    with torch.no_grad(), evaluating(made):
        made(blank_images(made, image_shape))
    return found
