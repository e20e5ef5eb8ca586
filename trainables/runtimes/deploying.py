"""Layers with learned step sizes as integers, for runtimes that compute with integers.

Such a layer rounds to few bits as it computes, in floating point. Written with the operators of
``torch.ops.quantized_decomposed``, the same becomes QuantizeLinear and DequantizeLinear in an ONNX
file, of which a runtime makes int8 arithmetic.
"""

from collections.abc import Callable
from typing import Any

import torch

# Importing it registers the operators of `quantized_decomposed`.
import torch.ao.quantization.fx._decomposed
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.fake_quantised import integers

_MOST_BITS = 8


def deploy(network: nn.Module) -> None:
    """Makes integers of all layers with learned step sizes, in place.

    A layer is one that says so by its attributes: ``weight_step``, ``[1]`` or ``[out]``,
    ``weight_bits``, ``input_step``, ``[1]`` or None, ``input_bits`` and ``input_signed``; see
    `trainables.models.fake_quantised`. What it answers stays, but for the last bits.
    """
    for name, module in list(network.named_modules()):
        if becomes_integers(module):
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, _Integers(module))


def becomes_integers(module: nn.Module) -> bool:
    """Whether a module is a layer with learned step sizes."""
    learned = isinstance(getattr(module, "weight_step", None), Tensor)
    return learned and isinstance(module, nn.Conv2d | nn.Linear)


class _Integers(nn.Module):
    """A convolution or linear layer of 2 to 8 bits.

    Args:
        layer: what it stands for.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight, step = layer.weight.detach(), layer.weight_step.detach()
        low, high = integers(layer.weight_bits, signed=True)
        along = step.view(-1, *[1] * (weight.ndim - 1))
        whole = (weight.to(step.dtype) / along).clamp(low, high).round()
        self.register_buffer("weight", whole.to(torch.int8))
        self.register_buffer("scales", step.float().expand(len(weight)).contiguous())
        self.register_buffer("zeros", torch.zeros(len(weight), dtype=torch.int64))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.input_bits = layer.input_bits
        if layer.input_step is not None:
            self.step, self.signed = float(layer.input_step.item()), layer.input_signed
        self.coarse = min(layer.weight_bits, layer.input_bits or _MOST_BITS) < _MOST_BITS
        self.compute = _computing(layer)

    def forward(self, x: Tensor) -> Tensor:
        known = torch.ops.quantized_decomposed
        if self.input_bits is not None:
            low, high = integers(self.input_bits, self.signed)
            if self.input_bits < _MOST_BITS:  # the operators of ONNX know the bounds of 8 bits only
                x = x.clamp(low * self.step, high * self.step)
            least, most = integers(_MOST_BITS, self.signed)
            how = (self.step, 0, least, most, torch.int8 if self.signed else torch.uint8)
            x = known.dequantize_per_tensor.default(
                known.quantize_per_tensor.default(x, *how), *how
            )
        weight = known.dequantize_per_channel.default(
            self.weight, self.scales, self.zeros, 0, -128, 127, torch.int8
        )
        if self.bias is None or not self.coarse:
            return self.compute(x, weight, self.bias)
        # Of a bias inside, ONNX Runtime makes a multiple of input step times weight step.
        along = (1, -1, *[1] * (weight.ndim - 2))
        return self.compute(x, weight, None) + self.bias.view(along)


def _computing(layer: Any) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    if isinstance(layer, nn.Linear):
        return F.linear
    stride, dilation, groups = layer.stride, layer.dilation, layer.groups
    padding = layer.padding

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return convolve
