"""Alphabets that quantised weights are from, and how values are brought to them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from trainables.compression.lockstep import layers
from trainables.models.edits import Bits

Rounding = Callable[[Tensor], Tensor]
"""Values ``[..., N]`` to characters of the alphabet of each of N neurons."""

THRESHOLDS = ("none", "soft", "hard")


@dataclass(frozen=True, kw_only=True)
class Alphabet:
    """The characters ``{-K, ..., K} * step`` (Zhang, Zhou and Saab 2023, equation 3).

    Attributes:
        step: distance of two characters, of a layer ``[1]`` or of each of its neurons ``[N]``.
        largest: K.
        threshold: ``soft``: values are first drawn towards 0 by ``width`` (section 6, L1);
            ``hard``: those nearer to 0 than ``width`` become 0, the other characters are
            ``±(width + k * step)`` (L0); or ``none``.
        width: of the threshold, ``[1]`` or ``[N]``.
    """

    step: Tensor
    largest: int
    threshold: str = "none"
    width: Tensor | float = 0.0

    @property
    def size(self) -> int:
        """Number of characters."""
        return 2 * self.largest + 1 + (2 if self.threshold == "hard" else 0)

    @property
    def bits(self) -> int:
        """Bits that one packed weight takes."""
        return math.ceil(math.log2(self.size))

    def grouped(self, groups: int) -> "Alphabet":
        """The same for values ``[groups, N / groups]`` of the neurons in their order."""
        shape = (groups, -1) if self.step.numel() > 1 else (1,)
        width = torch.as_tensor(self.width).expand_as(self.step)
        return replace(self, step=self.step.view(shape), width=width.reshape(shape))

    def nearest(self, values: Tensor) -> Tensor:
        """The nearest characters; of two equally near ones the larger in absolute value."""
        return self._quantised(values, lambda steps: (steps + 0.5).floor())

    def stochastic(self, generator: torch.Generator) -> Rounding:
        """One of the two neighbouring characters, so that the mean is the value itself."""

        def draw(steps: Tensor) -> Tensor:
            uniform = torch.rand(steps.shape, generator=generator, dtype=steps.dtype)
            return (steps + uniform.to(steps.device)).floor()

        return lambda values: self._quantised(values, draw)

    def _quantised(self, values: Tensor, rounded: Rounding) -> Tensor:
        magnitude = values.abs()
        if self.threshold == "none":
            return (
                rounded(magnitude / self.step).clamp_(max=self.largest) * self.step * values.sign()
            )
        above = (magnitude - self.width).clamp_(min=0)
        characters = rounded(above / self.step).clamp_(max=self.largest) * self.step
        if self.threshold == "hard":
            characters = torch.where(above > 0, characters + self.width, 0.0)
        return characters * values.sign()


def largest_character(bits: int, packed: bool) -> int:
    """K of an alphabet of b bits.

    As published it is 2^(b - 1): 2^b + 1 characters, more than b bits tell apart, so that a packed
    weight takes b + 1 of them. Packed it is 2^(b - 1) - 1, and a weight takes b.

    Args:
        bits: b, at least 2.
        packed: whether all characters are to fit into b bits.
    """
    return 2 ** (bits - 1) - packed


def layer_alphabet(
    weights: Tensor,
    largest: int,
    *,
    scalar: float = 1.16,
    percentile: float = 1.0,
    per_channel: bool = False,
) -> Alphabet:
    """The alphabet of a layer, as GPFQ's authors choose it.

    Its largest character is C times the radius R, which is the mean over the neurons of a
    percentile of their absolute weights.

    Args:
        weights: ``[N, d]``, one row for each neuron.
        largest: K.
        scalar: C.
        percentile: in (0, 1]; 1 is the largest.
        per_channel: R of every neuron for itself.
    """
    radius = torch.quantile(weights.abs().float(), percentile, dim=1)
    radius = (radius if per_channel else radius.mean(0, keepdim=True)) * scalar
    radius = torch.where(radius > 0, radius, 1.0).to(weights.dtype)  # of weights that are all 0
    return Alphabet(step=radius / largest, largest=largest)


def thresholded(alphabet: Alphabet, threshold: str, steps: float) -> Alphabet:
    """The sparse alphabet of an equally large range.

    Args:
        alphabet: without a threshold.
        threshold: as in `Alphabet`.
        steps: its width, in steps of ``alphabet``.
    """
    width = alphabet.step * steps
    # Behind a hard threshold the characters share what is left of the range.
    left = width / alphabet.largest if threshold == "hard" else 0.0
    return replace(alphabet, threshold=threshold, width=width, step=alphabet.step - left)


@torch.no_grad()
def round_weights(network: nn.Module, alphabet_of: Callable[[Tensor], Alphabet]) -> Bits:
    """Brings every weight of the convolutions and linear layers to the nearest character.

    Args:
        network: changed in place.
        alphabet_of: the alphabet of a layer's weights ``[N, d]``.

    Returns:
        How many bits they take now.
    """
    bits = {}
    for name, layer in layers(network).items():
        rows = layer.weight.flatten(1)
        alphabet = alphabet_of(rows)
        layer.weight.copy_(alphabet.nearest(rows.T).T.view_as(layer.weight))
        bits[name] = alphabet.bits
    return Bits.of(bits)
