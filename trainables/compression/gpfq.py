"""Greedy path following quantisation: weights that undo each other's errors on real images.

Lybrand and Saab, A Greedy Algorithm for Quantizing Neural Networks (JMLR 2021); Zhang, Zhou and
Saab, Post-training Quantization for Neural Networks with Provable Guarantees (SIMODS 2023).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.compression.alphabets import (
    THRESHOLDS,
    Alphabet,
    Rounding,
    thresholded,
)
from trainables.compression.calibration import looked_at, re_estimate_statistics
from trainables.compression.lockstep import changed_weights, patches
from trainables.compression.msq import MSQConfig
from trainables.compression.step import Scene, Span, Step, rounded_spans
from trainables.models.blueprint import Edit
from trainables.models.edits import MASK, Bits
from trainables.settings import setting

BLOCK = 32
"""Columns that are quantised before the error state is brought up to date."""


def gpfq(
    weights: Tensor,
    inputs: Tensor,
    quantised_inputs: Tensor,
    rounding: Rounding,
    kept: Tensor | None = None,
) -> Tensor:
    """Quantises the rows of a layer's weight, one column after the other.

    With the error state U_0 = 0, column t of all neurons becomes

        q_t = Q( <x̃_t, U_{t-1} + x_t w_t> / |x̃_t|² ),   U_t = U_{t-1} + x_t w_t - x̃_t q_t

    (Zhang, Zhou and Saab 2023, equation 7), or Q(0) where x̃_t is zero. Within a block of columns
    the scalar products are updated through the inner products of the columns, and U, ``[m, N]``,
    once behind it, by products of matrices: the same numbers in another order.

    Args:
        weights: ``[groups, N, d]``.
        inputs: X, of the given network, ``[groups, m, d]``.
        quantised_inputs: X̃, of the network whose earlier layers are quantised, as ``inputs``.
        rounding: Q, of values ``[groups, N]``.
        kept: where a weight may be other than zero, bool as ``weights``; None: everywhere. The
            columns behind it make up for a weight that is masked, too.

    Returns:
        ``[groups, N, d]``.
    """
    quantised = torch.empty_like(weights)
    state = weights.new_zeros(weights.shape[0], inputs.shape[1], weights.shape[1])
    for start in range(0, weights.shape[2], BLOCK):
        block = slice(start, start + BLOCK)
        given, seen, own = inputs[..., block], quantised_inputs[..., block], weights[..., block]
        with_seen = seen.transpose(1, 2)  # [groups, columns, m]
        inner, cross = with_seen @ seen, with_seen @ given
        norms = inner.diagonal(dim1=1, dim2=2)
        inverse = torch.where(norms > 0, norms.reciprocal(), 0.0)
        # <x̃_t, U + sum over j <= t of x_j w_j>, of all columns of the block: [groups, columns, N]
        products = with_seen @ state + cross.tril() @ own.transpose(1, 2)
        for t in range(own.shape[2]):
            letter = rounding(products[:, t] * inverse[:, t, None])
            if kept is not None:
                letter = letter * kept[..., start + t]
            quantised[..., start + t] = letter
            products[:, t + 1 :].addcmul_(inner[:, t + 1 :, t : t + 1], letter[:, None], value=-1)
        state.baddbmm_(given, own.transpose(1, 2))
        state.baddbmm_(seen, quantised[..., block].transpose(1, 2), alpha=-1)
    return quantised


@dataclass(frozen=True, kw_only=True)
class GPFQConfig(MSQConfig):
    """See `GPFQ`."""

    scalar: float = setting(
        1.16, "C: the largest character in radii of a layer", above=0, search=(0.5, 3.0)
    )
    rounding: str = setting(
        "nearest", "to characters of the alphabet", choices=("nearest", "stochastic")
    )
    threshold: str = setting(
        "none", "draws small weights to 0: soft (L1) or hard (L0)", choices=THRESHOLDS
    )
    threshold_width: float = setting(
        1.0, "below which a weight becomes 0, in steps of the alphabet", at_least=0
    )
    images: int = setting(256, "training images that it looks at", at_least=1)
    patches: float = setting(
        0.25, "share of a convolution's positions that it looks at", above=0, at_most=1
    )

    def alphabet(self, rows: Tensor) -> Alphabet:
        return thresholded(super().alphabet(rows), self.threshold, self.threshold_width)


class GPFQ(Step):
    """Quantises the weights of every convolution and linear layer behind the last update."""

    Config = GPFQConfig
    config: GPFQConfig
    followers = ()
    moments = (1.0,)

    def spans(self) -> Mapping[str, Span]:
        return rounded_spans(self.config.amount)

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        images = looked_at(scene, self.config.images)
        bits: dict[str, int] = {}

        def change(name: str, layer: nn.Module, inputs: Tensor, seen: Tensor) -> Tensor:
            found, bits[name] = self._quantised(layer, inputs, seen, scene.generator)
            return found

        weights = changed_weights(scene.network, images, change)
        with torch.no_grad():
            for name, values in weights.items():
                scene.network.get_parameter(f"{name}.weight").copy_(values)
        re_estimate_statistics(scene, self.config.bn_images)
        return [Bits.of(bits)]

    def _quantised(
        self, layer: nn.Module, inputs: Tensor, seen: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """The layer's new weight, and the bits of one of its values."""
        weight = layer.get_parameter("weight").detach()
        rows = weight.flatten(1)
        both = torch.cat([inputs, seen])  # in one call: they see the same positions
        given, shown = patches(layer, both, self.config.patches, generator).chunk(2, dim=1)
        alphabet = self.config.alphabet(rows).grouped(len(given))
        nearest = self.config.rounding == "nearest"
        rounding = alphabet.nearest if nearest else alphabet.stochastic(generator)
        shape = (len(given), -1, rows.shape[1])
        mask = layer._buffers.get(MASK)
        kept = None if mask is None else mask.view(shape)
        found = gpfq(rows.view(shape), given, shown, rounding, kept)
        return found.view(weight.shape), alphabet.bits
