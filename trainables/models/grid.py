"""The grid of values that 8 bits tell apart; symbols as in `trainables.models.int8`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators of `QUANTISED`
from torch import Tensor

from trainables.models.fake_quantised import integers

BITS = 8
INPUTS = (0, 255)

QUANTISED: Any = torch.ops.quantized_decomposed
"""The operators that runtimes look for to make integers of what is exported."""


@dataclass(frozen=True)
class Grid:
    """The values that 8 bits tell apart.

    Attributes:
        scale: s_v, between one and the next.
        zero_point: z, the integer that stands for 0.
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"expected a scale > 0, got {self.scale}")
        if not INPUTS[0] <= self.zero_point <= INPUTS[1]:
            raise ValueError(f"expected a zero point from 0 to 255, got {self.zero_point}")

    @classmethod
    def covering(cls, least: float, greatest: float) -> "Grid":
        """The finest one from ``least`` to ``greatest`` that has zero, as padding needs."""
        least, greatest = min(least, 0.0), max(greatest, 0.0)
        scale = (greatest - least) / INPUTS[1] or 1.0
        return cls(scale, round(-least / scale))

    @classmethod
    def learned(cls, step: float, signed: bool) -> "Grid":
        """That of a learned step size; see `trainables.models.fake_quantised`."""
        return cls(step, -integers(BITS, signed)[0])

    def whole(self, x: Tensor) -> Tensor:
        """q - z of every value, in float32; its gradient is that of the values that are not
        clipped, as if they were not rounded."""
        low, high = (end - self.zero_point for end in INPUTS)
        found: Tensor = _Round.apply(x * (1 / self.scale)).clamp(low, high)
        return found

    def nearest(self, x: Tensor) -> Tensor:
        """v̂ of every value, float32; where it is exported, by the operators of the pattern."""
        if not torch.compiler.is_exporting():
            return self.whole(x) * self.scale
        numbers = (self.scale, self.zero_point, *INPUTS, torch.uint8)
        q = QUANTISED.quantize_per_tensor.default(x, *numbers)
        found: Tensor = QUANTISED.dequantize_per_tensor.default(q, *numbers)
        return found

    def to_list(self) -> list[float]:
        """What JSON can hold, and `from_list` reads back."""
        return [self.scale, self.zero_point]

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> "Grid":
        """The grid that `to_list` wrote."""
        scale, zero_point = numbers
        return cls(float(scale), int(zero_point))


class _Round(torch.autograd.Function):
    """Rounds, and lets gradients through."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
