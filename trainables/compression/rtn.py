"""Round to nearest: every weight to the nearest of evenly spaced values, the usual baseline.

Symmetric, without a zero point: with s = max |w| / (2^(b - 1) - 1) a weight becomes s times
round(w / s) (Nagel et al., A White Paper on Neural Network Quantization, 2021, section 2.2.1).
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
class RTNConfig:
    """See `RTN`."""

    amount: int = setting(8, "bits b of a weight", at_least=2, at_most=16, search=(2, 8))
    per_channel: bool = setting(True, "a scale for every neuron instead of every layer")
    bn_images: int = bn_images()


class RTN(Step):
    """Quantises the weights of every convolution and linear layer behind the last update."""

    Config = RTNConfig
    config: RTNConfig
    followers = ()
    moments = (1.0,)

    def spans(self) -> Mapping[str, Span]:
        return rounded_spans(self.config.amount)

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        bits = round_weights(scene.network, self._alphabet)
        re_estimate_statistics(scene, self.config.bn_images)
        return [bits]

    def _alphabet(self, rows: Tensor) -> Alphabet:
        every = rows if self.config.per_channel else rows.reshape(1, -1)
        largest = largest_character(self.config.amount, packed=True)
        return layer_alphabet(every, largest, scalar=1.0, per_channel=True)
