"""Layers that compute with few bits and learn how far apart their values lie.

Esser et al., Learned Step Size Quantization (LSQ; ICLR 2020, arXiv 1902.08153). With a step size
s, which is learned, and the integers -Q_N to Q_P that b bits tell apart, a value v becomes

    v̂ = round(clip(v / s, -Q_N, Q_P)) · s                                       (equations 1, 2)

where signed Q_N = 2^(b - 1) and Q_P = 2^(b - 1) - 1, and unsigned Q_N = 0 and Q_P = 2^b - 1.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.blueprint import Edit, module_of
from trainables.models.layers import Subsampling
from trainables.models.outputs import Network

LEAST_BITS, MOST_BITS = 2, 8


def integers(bits: int, signed: bool) -> tuple[int, int]:
    """The least and the largest integer of b bits: -Q_N and Q_P."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def initial_step(mean: Tensor, bits: int, signed: bool) -> Tensor:
    """2 · mean |v| / sqrt(Q_P) (section 2.1), or 1 where all values are zero.

    Args:
        mean: of the absolute values, of any shape.
        bits, signed: as for `integers`.
    """
    found = 2 * mean / math.sqrt(integers(bits, signed)[1])
    return torch.where(found > 0, found, 1.0)


def fake_quantise(values: Tensor, step: Tensor, bits: int, signed: bool, count: int) -> Tensor:
    """v̂ in the dtype of the step, with LSQ's gradients.

    To the values it is passed on where -Q_N < v / s < Q_P, and zero elsewhere (equation 5). The
    step's is, summed over its values (equation 3) and times g (section 2.2),

        ∂v̂/∂s = round(v / s) - v / s   where -Q_N < v / s < Q_P;   -Q_N below it, Q_P above it
        g = 1 / sqrt(N · Q_P)

    Args:
        values: of any shape and dtype.
        step: s, ``[1]``, or ``[n]`` along the first axis of the values.
        bits, signed: as for `integers`.
        count: N: the weights that share a step, or the features of a layer.
    """
    found: Tensor = _FakeQuantise.apply(values, step, *integers(bits, signed), count)
    return found


class _FakeQuantise(torch.autograd.Function):
    """Written by hand: the gradient of ``torch.clamp`` at its bounds is not that of equation 5."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, low: int, high: int, count: int) -> Tensor:
        ctx.save_for_backward(values, step)
        ctx.bounds, ctx.count = (low, high), count
        along = _along(step, values)
        return (values.to(step.dtype) / along).clamp_(low, high).round_().mul_(along)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = gradients
        values, step = ctx.saved_tensors
        low, high = ctx.bounds
        scaled = values.to(step.dtype) / _along(step, values)
        # What is passed on strictly inside the range; torch.where takes seven times as long.
        inside = functools.partial(torch.ops.aten.hardtanh_backward, min_val=low, max_val=high)
        slope = scaled.clamp(low, high).round_().sub_(inside(scaled, scaled))
        of_values = inside(gradient, scaled).to(values.dtype)
        every = (gradient * slope).sum([*range(1, values.ndim)] if len(step) > 1 else None)
        of_step = every.view(step.shape)
        return of_values, of_step / math.sqrt(ctx.count * high), None, None, None


def _along(step: Tensor, values: Tensor) -> Tensor:
    """The step beside its values."""
    return step.view(-1, *[1] * (values.ndim - 1))


class FakeQuantisedLayer(nn.Module):
    """A convolution or linear layer whose weights and inputs are quantised as it computes.

    Attributes:
        weight: as it is learned, in floating point; a masked one stays exactly zero.
        weight_bits: of a weight.
        weight_step: its step size, learned, ``[1]`` or of every output ``[out]``.
        input_bits: of an input; None where inputs are not quantised.
        input_signed: whether inputs may be negative.
        input_step: their step size, learned, ``[1]``; None where inputs are not quantised.
    """

    weight: Tensor
    weight_bits: int
    weight_step: nn.Parameter
    input_bits: int | None
    input_signed: bool
    input_step: nn.Parameter | None

    def quantised_weight(self) -> Tensor:
        """What the layer computes with instead of its weight."""
        count = self.weight.numel() // self.weight_step.numel()
        return fake_quantise(self.weight, self.weight_step, self.weight_bits, True, count)

    def quantised_input(self, x: Tensor) -> Tensor:
        """What the layer computes with instead of its input ``[B, ...]``."""
        if self.input_step is None or self.input_bits is None:
            return x
        count = x[:1].numel()
        return fake_quantise(x, self.input_step, self.input_bits, self.input_signed, count)


class FakeQuantisedConv2d(FakeQuantisedLayer, nn.Conv2d):
    """A convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.quantised_input(x), self.quantised_weight(), self.bias)


class FakeQuantisedSubsampling(FakeQuantisedConv2d, Subsampling):
    """A strided 1x1 convolution of few channels."""


class FakeQuantisedLinear(FakeQuantisedLayer, nn.Linear):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.quantised_input(x), self.quantised_weight(), self.bias)


CLASSES: Mapping[type[nn.Module], type[FakeQuantisedLayer]] = {
    nn.Conv2d: FakeQuantisedConv2d,
    Subsampling: FakeQuantisedSubsampling,
    nn.Linear: FakeQuantisedLinear,
}
"""What a layer becomes. A subclass that somebody else computes otherwise is none of these."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """How a layer is quantised; attributes as those of `FakeQuantisedLayer`.

    Attributes:
        per_channel: whether every output has a step size of its own for its weights.
    """

    weight_bits: int
    input_bits: int | None
    input_signed: bool
    per_channel: bool

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.input_bits):
            if bits is not None and not LEAST_BITS <= bits <= MOST_BITS:
                raise ValueError(f"expected {LEAST_BITS} to {MOST_BITS} bits, got {bits}")


@dataclass(frozen=True)
class FakeQuantised(Edit):
    """Layers that become fake-quantised ones.

    Step sizes of weights begin as `initial_step` has them, those of inputs at 1: who has seen
    inputs fills them in.

    Attributes:
        layers: names of convolutions and linear layers, sorted, and how each is quantised.
    """

    kind: ClassVar[str] = "fake_quantised"

    layers: tuple[tuple[str, Widths], ...] = ()

    @classmethod
    def of(cls, layers: Mapping[str, Widths]) -> "FakeQuantised":
        """The edit that quantises these layers."""
        return cls(tuple(sorted(layers.items(), key=lambda pair: pair[0])))

    def apply(self, network: Network) -> None:
        for name, widths in self.layers:
            _convert(name, module_of(network, name, nn.Conv2d, nn.Linear), widths)

    def to_dict(self) -> dict[str, Any]:
        return {"layers": {name: asdict(widths) for name, widths in self.layers}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FakeQuantised":
        return cls.of({name: Widths(**widths) for name, widths in values["layers"].items()})


@torch.no_grad()
def _convert(name: str, module: Any, widths: Widths) -> None:
    if isinstance(module, FakeQuantisedLayer):
        if widths_of(module) != widths:
            raise UserError(f"edit: module '{name}' is quantised already, to other widths")
        return
    if type(module) not in CLASSES:
        expected = " or ".join(kind.__name__ for kind in CLASSES)
        raise UserError(f"edit: module '{name}' is {type(module).__name__}, expected {expected}")
    weight = module.weight
    sizes = weight.detach().abs().flatten(1).mean(1)
    mean = sizes if widths.per_channel else sizes.mean(0, keepdim=True)
    step = initial_step(mean, widths.weight_bits, signed=True)
    module.__class__ = CLASSES[type(module)]  # whatever else is known of it stays
    module.weight_bits = widths.weight_bits
    module.input_bits, module.input_signed = widths.input_bits, widths.input_signed
    module.weight_step = nn.Parameter(step, weight.requires_grad)
    module.register_parameter(
        "input_step",
        None
        if widths.input_bits is None
        else nn.Parameter(weight.new_ones(1), weight.requires_grad),
    )


def widths_of(layer: FakeQuantisedLayer) -> Widths:
    """How a layer is quantised."""
    return Widths(
        weight_bits=layer.weight_bits,
        input_bits=layer.input_bits,
        input_signed=layer.input_signed,
        per_channel=layer.weight_step.shape == layer.weight.shape[:1],
    )


def fake_quantised(network: nn.Module) -> dict[str, FakeQuantisedLayer]:
    """The fake-quantised layers of a network by name."""
    return {n: m for n, m in network.named_modules() if isinstance(m, FakeQuantisedLayer)}
