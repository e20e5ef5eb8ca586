"""Static int8 quantisation: weights and inputs of layers as integers of 8 bits.

Behind a training in floating point it is post-training quantisation: ranges of inputs from training
images, a symmetric scale for the weights of every output (Krishnamoorthi, Quantizing Deep
Convolutional Networks for Efficient Inference, 2018, sections 2 and 3). Behind ``qat`` it keeps
the integers and the step sizes that were learned. What is left computes in integers under the
runtimes ``compiled`` and ``onnx``, and under ``eager`` as they do, in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainables.compression.calibration import looked_at, say_what_stays
from trainables.compression.ranges import CHOICES, grids_of
from trainables.compression.step import Scene, Span, Step
from trainables.compression.wiring import Wiring, wiring
from trainables.errors import UserError
from trainables.models.blueprint import Edit
from trainables.models.fake_quantised import CLASSES, FakeQuantisedLayer, fake_quantised
from trainables.models.family import ImageShape
from trainables.models.grid import BITS, Grid
from trainables.models.int8 import Int8, Quantised
from trainables.models.outputs import Network
from trainables.models.shapes import blank_images
from trainables.settings import setting

QAT = "qat"


@dataclass(frozen=True, kw_only=True)
class Int8Config:
    """See `Int8Step`."""

    images: int = setting(
        256,
        "training images from which the ranges of inputs are taken",
        at_least=1,
        search=(64, 1024),
        log=True,
    )
    range: str = setting(
        "mse", "of inputs: all of it, or the part with the least squared error", choices=CHOICES
    )


class Int8Step(Step):
    """Makes every convolution and linear layer one of integers, the first and the last as well.

    A BatchNorm is folded into the convolution in front of it where nothing else reads what that
    returns; any other stays, with its statistics. The terms of a residual sum are quantised where a
    convolution ends in it; their ranges come from images behind ``qat``, too. Other layers stay in
    floating point, which a warning says: one-dimensional convolutions, as of efficient channel
    attention, padding with other values than zero, layers that another library computes in its own
    way, and those whose weights are used without calling them.
    """

    Config = Int8Config
    config: Int8Config
    followers = ()
    moments = (1.0,)

    def check(self, network: Network, image_shape: ImageShape) -> None:
        for name, layer in fake_quantised(network).items():
            _check_bits(name, layer)
        found = _wired(network, blank_images(network, image_shape))
        if not found.layers:
            raise UserError("int8: the student has no convolution or linear layer to quantise")
        say_what_stays("int8", network, found.layers)

    def check_behind(self, step: Step) -> None:
        if step.name != QAT:
            return
        config = step.config
        if config.weights_only:
            raise UserError("qat.weights_only: expected false with int8, got true")
        for key, bits in {
            "qat": config.amount,
            "qat.activations": config.activations or config.amount,
            "qat.ends": config.ends,
        }.items():
            if bits != BITS:
                raise UserError(f"{key}: expected {BITS} bits with int8, got {bits}")

    def spans(self) -> Mapping[str, Span]:
        return {
            **super().spans(),
            "macs": (1.0, 1.0),
            "params": (0.0, 1.0),  # without the BatchNorms that are folded in
            "size_bytes": (0.0, 1.0),
            "bit_operations": (BITS**2 / 32**2, 1.0),
        }

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        network = scene.network
        images = looked_at(scene, self.config.images)
        grids = {name: _learned(name, one) for name, one in fake_quantised(network).items()}
        found = _wired(network, images[:1])
        layers = [name for name in found.layers if not grids or name in grids]
        sums = [name for name, layer in found.sums.items() if layer in layers]
        heard = [*sums, *(name for name in layers if name not in grids)]
        seen = grids_of(network, images, heard, self.config.range)
        quantised = {
            name: Quantised(grids.get(name) or seen[name, 0], found.norms.get(name))
            for name in layers
        }
        return [Int8.of(quantised, {name: (seen[name, 0], seen[name, 1]) for name in sums})]


def _wired(network: Network, image: Tensor) -> Wiring:
    """The wiring of a network, of the layers that can become layers of integers."""
    found = wiring(network, image, {*CLASSES, *CLASSES.values()})
    found.layers = [
        name
        for name in found.layers
        if getattr(network.get_submodule(name), "padding_mode", "zeros") == "zeros"
    ]
    return found


def _check_bits(name: str, layer: FakeQuantisedLayer) -> None:
    if layer.weight_bits != BITS or layer.input_bits != BITS:
        raise UserError(
            f"int8: layer '{name}' has weights of {layer.weight_bits} and inputs of "
            f"{layer.input_bits or 32} bits, expected {BITS} and {BITS}"
        )


def _learned(name: str, layer: FakeQuantisedLayer) -> Grid:
    """The grid of a fake-quantised layer's inputs."""
    _check_bits(name, layer)
    assert layer.input_step is not None
    return Grid.learned(layer.input_step.item(), layer.input_signed)
