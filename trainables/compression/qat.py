"""Quantisation-aware training with learned step sizes of weights and activations.

Esser et al., Learned Step Size Quantization (LSQ; ICLR 2020, arXiv 1902.08153). What a layer
computes is in `trainables.models.fake_quantised`. The paper begins from a trained network, keeps
the first and the last layer at 8 bits, and has one step size for the weights of a layer.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.compression.calibration import (
    Inputs,
    bn_images,
    inputs_of,
    looked_at,
    re_estimate_statistics,
    say_what_stays,
)
from trainables.compression.step import Scene, Span, Step
from trainables.errors import UserError
from trainables.models.blueprint import Edit
from trainables.models.edits import Bits
from trainables.models.fake_quantised import (
    CLASSES,
    LEAST_BITS,
    MOST_BITS,
    FakeQuantised,
    Widths,
    fake_quantised,
    initial_step,
)
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.models.shapes import blank_images
from trainables.once import warn_once
from trainables.settings import setting

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class QATConfig:
    """See `QAT`."""

    amount: int = setting(
        4, "bits of a weight", at_least=LEAST_BITS, at_most=MOST_BITS, search=(2, 8)
    )
    activations: int | None = setting(
        None,
        "bits of an activation; none: as many as of a weight",
        at_least=LEAST_BITS,
        at_most=MOST_BITS,
        search=(2, 8),
    )
    weights_only: bool = setting(False, "activations stay in floating point")
    ends: int = setting(
        8,
        "bits of weights and inputs of the first and the last layer",
        at_least=LEAST_BITS,
        at_most=MOST_BITS,
        search=(2, 8),
    )
    per_channel: bool = setting(
        False, "a step size for the weights of every output instead of every layer"
    )
    begin: float = setting(
        0.0,
        "share of the training in floating point before",
        at_least=0,
        at_most=1,
        search=(0, 0.5),
    )
    images: int = setting(
        256, "training images from which step sizes of activations begin", at_least=1
    )
    bn_images: int = bn_images()


class QAT(Step):
    """Fake-quantises convolutions and linear layers at ``begin``; their step sizes are learned.

    Inputs that are never negative on the training images that it looks at, as behind a ReLU, are
    quantised without sign. Behind the last update every weight becomes the value that it is
    computed with. Step sizes are trained by the trial's optimizer, at its learning rate. One that
    an update carries below zero becomes its absolute value, which is the same grid of values: a
    step size is positive whatever the learning rate.

    Other layers stay in floating point, which a warning says: one-dimensional convolutions, as of
    efficient channel attention, layers that another library computes in its own way, and those
    whose weights are used without calling them.
    """

    Config = QATConfig
    config: QATConfig
    followers = ("int8",)

    def __init__(self, config: QATConfig) -> None:
        super().__init__(config)
        self.moments = sorted({config.begin, 1.0})
        self._updated = False

    def check(self, network: Network, image_shape: ImageShape) -> None:
        found = inputs_of(network, blank_images(network, image_shape), CLASSES)
        if not found:
            raise UserError("qat: the student has no convolution or linear layer to quantise")
        say_what_stays("qat", network, found)

    def spans(self) -> Mapping[str, Span]:
        config = self.config
        weights = min(config.amount, config.ends)
        inputs = 32 if config.weights_only else min(config.activations or weights, config.ends)
        return {
            **super().spans(),
            "macs": (1.0, 1.0),
            "params": (1.0, math.inf),  # step sizes are learned
            "size_bytes": (weights / 32, math.inf),
            "bit_operations": (weights * inputs / 32**2, 1.0),
        }

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        edits: list[Edit] = []
        if moment == self.config.begin:
            edits.append(self._begin(scene))
        if moment == 1:
            edits.append(self._finish(scene))
        return edits

    def _begin(self, scene: Scene) -> FakeQuantised:
        found = inputs_of(scene.network, looked_at(scene, self.config.images), CLASSES)
        change = FakeQuantised.of(self._widths(scene.network, found))
        change.apply(scene.network)  # now, so that there are steps to fill in
        for name, layer in fake_quantised(scene.network).items():
            if layer.input_step is not None and layer.input_bits is not None:
                mean = found[name].mean
                step = initial_step(mean, layer.input_bits, layer.input_signed)
                layer.input_step.fill_(step)
        return change

    def _widths(self, network: Network, found: Mapping[str, Inputs]) -> dict[str, Widths]:
        """How every layer is quantised that was given something, in the order of the pass."""
        config = self.config
        first = next(iter(found))
        inner = config.activations or config.amount
        widths = {}
        for name, given in found.items():
            end = name == first or network.get_submodule(name) is network.classifier
            bits = config.ends if end else inner
            widths[name] = Widths(
                weight_bits=config.ends if end else config.amount,
                input_bits=None if config.weights_only else bits,
                input_signed=bool(given.least < 0),
                per_channel=config.per_channel,
            )
        return widths

    def _finish(self, scene: Scene) -> Bits:
        if not self._updated:
            warn_once(log, f"qat.begin: {self.config.begin:g} left no epoch to train step sizes in")
        bits = {}
        for name, layer in fake_quantised(scene.network).items():
            layer.weight.copy_(layer.quantised_weight())
            bits[name] = layer.weight_bits
        re_estimate_statistics(scene, self.config.bn_images)
        return Bits.of(bits)

    def after_update(self, network: Network) -> None:
        steps: list[Tensor] = [
            step
            for layer in fake_quantised(network).values()
            for step in (layer.weight_step, layer.input_step)
            if step is not None
        ]
        if steps:
            self._updated = True
            torch._foreach_abs_(steps)
            torch._foreach_clamp_min_(steps, torch.finfo(steps[0].dtype).tiny)
