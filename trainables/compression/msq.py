"""Memoryless scalar quantisation: every weight by itself, to the nearest character.

The baseline of Zhang, Zhou and Saab (SIMODS 2023), with the alphabets of GPFQ.
Their C of 1.16 is for GPFQ at 4 bits, whose later weights make up for one that is cut to the
largest character. Here nothing does: with 1.16 an imported ResNet-20 loses 2 points at 8 bits, with
2 none. So 2 is the default, better at 4 bits and more; at 2 and 3 bits a smaller C is
(``tests/benchmarks/quantisers.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainables.compression.alphabets import (
    Alphabet,
    largest_character,
    layer_alphabet,
    round_weights,
)
from trainables.compression.calibration import bn_images, re_estimate_statistics
from trainables.compression.step import Scene, Span, Step, rounded_spans
from trainables.models.blueprint import Edit
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True)
class MSQConfig:
    """See `MSQ`."""

    amount: int = setting(4, "bits b of a weight", at_least=2, at_most=16, search=(2, 8))
    packed: bool = setting(
        False, "2^b - 1 characters, which b bits tell apart, instead of the published 2^b + 1"
    )
    scalar: float = setting(
        2.0, "C: the largest character in radii of a layer", above=0, search=(0.5, 3.0)
    )
    percentile: float = setting(
        1.0, "of a neuron's absolute weights that counts as its radius", above=0, at_most=1
    )
    per_channel: bool = setting(False, "an alphabet for every neuron instead of every layer")
    bn_images: int = bn_images()

    def alphabet(self, rows: Tensor) -> Alphabet:
        """The alphabet of a layer's weights ``[N, d]``."""
        return layer_alphabet(
            rows,
            largest_character(self.amount, self.packed),
            scalar=self.scalar,
            percentile=self.percentile,
            per_channel=self.per_channel,
        )


class MSQ(Step):
    """Quantises the weights of every convolution and linear layer behind the last update."""

    Config = MSQConfig
    config: MSQConfig
    followers = ()
    moments = (1.0,)

    def spans(self) -> Mapping[str, Span]:
        return rounded_spans(self.config.amount)

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        bits = round_weights(scene.network, self.config.alphabet)
        re_estimate_statistics(scene, self.config.bn_images)
        return [bits]
