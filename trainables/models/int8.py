"""Layers that keep 8-bit integers, and what is quantised where they compute.

A value v of an input becomes an integer q of 0 to 255, one of a weight w an integer p of -128 to
127, with a scale for the inputs of a layer, s_v, and one for each of its outputs, s_w:

    q = clip(round(v / s_v) + z, 0, 255)     v̂ = s_v (q - z)     ŵ = s_w p
    Σ v̂ ŵ = s_v s_w Σ (q - z) p

(Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, CVPR 2018, section 2.2). PyTorch takes the last sum, in float32: up to 2^24 it is exact,
so that an image's logits do not depend on the others of its batch, and are those of integers. What
is exported takes the sum of v̂ ŵ, between operators that runtimes look for to make integers of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.blueprint import Edit, module_of
from trainables.models.fake_quantised import FakeQuantisedLayer, integers
from trainables.models.grid import BITS, QUANTISED, Grid
from trainables.models.layers import Sum
from trainables.models.outputs import Network

WEIGHTS = (-128, 127)
SYMMETRIC = 127
"""The largest integer of a weight where zero is in the middle."""


class Int8Layer(nn.Module):
    """A convolution or linear layer of integers.

    Autocast does not change it.

    Attributes:
        weight: p, int8; it is not trained.
        weight_scale: s_w, float32 ``[out]``; negative where a BatchNorm was folded in that turns
            the sign, zero where it has none of its inputs.
        bias: float32 ``[out]``, or None.
        grid: of its inputs.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: nn.Parameter | None
    weight_bits = input_bits = BITS

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, grid: Grid, learned: bool
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias, learned)
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta or not torch.is_autocast_enabled(x.device.type):
            return self._computed(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._computed(x.float())

    def _computed(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            weight = QUANTISED.dequantize_per_channel.default(
                self.weight, self.weight_scale, None, 0, *WEIGHTS, torch.int8
            )
            return self.applied(self.grid.nearest(x), weight, self.bias)
        scale = self.weight_scale * self.grid.scale
        sums = self.applied(self.grid.whole(x), self.weight.float(), None)
        found = sums * self._along(scale)
        return found if self.bias is None else found + self._along(self.bias)

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output for an input and a weight in floating point."""
        raise NotImplementedError

    def _along(self, values: Tensor) -> Tensor:
        """Values ``[out]`` beside outputs."""
        return values


class Int8Conv2d(Int8Layer):
    """A convolution, padded with zeros."""

    def __init__(self, layer: nn.Conv2d, *parts: Any) -> None:
        super().__init__(*parts)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.groups = layer.kernel_size, layer.groups
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        where = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv2d(x, weight, bias, *where)  # type: ignore[arg-type]

    def _along(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)


class Int8Linear(Int8Layer):
    """A linear layer."""

    def __init__(self, layer: nn.Linear, *parts: Any) -> None:
        super().__init__(*parts)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class Int8Sum(Sum):
    """A sum of quantised terms: what a convolution leaves for it need not be floating point.

    Attributes:
        grids: of the block's own term, and of the shortcut.
    """

    def __init__(self, grids: tuple[Grid, Grid]) -> None:
        super().__init__()
        self.grids = grids

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        own, other = self.grids
        return super().forward(own.nearest(x), other.nearest(shortcut))


@dataclass(frozen=True)
class Quantised:
    """What becomes of a layer.

    Attributes:
        grid: of its inputs.
        norm: name of the BatchNorm behind it that is folded in; None where there is none.
    """

    grid: Grid
    norm: str | None = None


@dataclass(frozen=True)
class Int8(Edit):
    """Layers that become layers of integers, and sums whose terms are quantised.

    A weight's scale is its output's largest value over 127. A fake-quantised layer keeps its
    integers and its step sizes. A BatchNorm that is folded in becomes an identity.

    Attributes:
        layers: names of convolutions and linear layers, sorted.
        sums: names of `Sum` modules, sorted, and the grids of their terms.
    """

    kind: ClassVar[str] = "int8"
    settles: ClassVar[bool] = True

    layers: tuple[tuple[str, Quantised], ...] = ()
    sums: tuple[tuple[str, tuple[Grid, Grid]], ...] = ()

    @classmethod
    def of(cls, layers: Mapping[str, Quantised], sums: Mapping[str, tuple[Grid, Grid]]) -> "Int8":
        """The edit that quantises these."""
        return cls(
            tuple((name, layers[name]) for name in sorted(layers)),
            tuple((name, sums[name]) for name in sorted(sums)),
        )

    @torch.no_grad()
    def apply(self, network: Network) -> None:
        for name, quantised in self.layers:
            layer: Any = module_of(network, name, nn.Conv2d, nn.Linear)
            norm = None
            if quantised.norm is not None:
                norm = module_of(network, quantised.norm, nn.BatchNorm2d)
                _put(network, norm, nn.Identity())
            _put(network, layer, _converted(layer, norm, quantised.grid))
        for name, grids in self.sums:
            _put(network, module_of(network, name, Sum), Int8Sum(grids))

    def to_dict(self) -> dict[str, Any]:
        layers = {
            name: [one.grid.to_list(), *([one.norm] if one.norm else [])]
            for name, one in self.layers
        }
        sums = {name: [grid.to_list() for grid in grids] for name, grids in self.sums}
        return {"layers": layers, "sums": sums}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Int8":
        layers = {
            name: Quantised(Grid.from_list(numbers), *norm)
            for name, (numbers, *norm) in values["layers"].items()
        }
        sums = {
            name: (Grid.from_list(own), Grid.from_list(other))
            for name, (own, other) in values["sums"].items()
        }
        return cls.of(layers, sums)


def has_int8(network: nn.Module) -> bool:
    """Whether a network has layers of integers."""
    return any(isinstance(module, Int8Layer) for module in network.modules())


def norm_factors(norm: Any) -> tuple[Tensor, Tensor]:
    """What a BatchNorm does in evaluation mode: x becomes factor · x + shift.

    Returns:
        factor and shift, float64 ``[channels]``.
    """
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -mean * factor
    return factor, shift if norm.bias is None else shift + norm.bias.double()


def _converted(layer: Any, norm: nn.Module | None, grid: Grid) -> Int8Layer:
    if layer.weight.dtype is not torch.float32:
        raise UserError(f"edit: expected float32 weights, got {layer.weight.dtype}")
    weight, scale = _whole(layer)
    bias = layer.bias
    if norm is not None:
        factor, shift = norm_factors(norm)
        scale = scale * factor
        bias = (shift if bias is None else shift + factor * bias.double()).float()
    kind: Any = Int8Linear if isinstance(layer, nn.Linear) else Int8Conv2d
    learned = layer.weight.requires_grad
    made: Int8Layer = kind(
        layer, weight, scale.float(), None if bias is None else bias.detach(), grid, learned
    )
    return made.train(layer.training)


def _whole(layer: Any) -> tuple[Tensor, Tensor]:
    """A layer's weight as integers, and the scale of every output, float64."""
    weight = layer.weight.detach()
    if isinstance(layer, FakeQuantisedLayer):
        low, high = integers(layer.weight_bits, signed=True)
        step = layer.weight_step.detach()
        along = step.view(-1, *[1] * (weight.ndim - 1))
        whole = (weight / along).clamp(low, high).round()  # in float32, as it was trained
        return whole.to(torch.int8), step.double().expand(len(weight)).clone()
    largest = weight.abs().flatten(1).amax(1).double()
    scale = torch.where(largest > 0, largest / SYMMETRIC, 1.0)
    whole = (weight.double() / scale.view(-1, *[1] * (weight.ndim - 1))).round()
    return whole.to(torch.int8), scale


def _put(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts a module where another one is, under every name that it has."""
    names = [n for n, m in network.named_modules(remove_duplicate=False) if m is old]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, new)
