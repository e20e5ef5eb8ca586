"""The layers of a network: what each is, what it costs, and its share of the time."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.family import ImageShape
from trainables.models.flops import FlopCounter
from trainables.models.outputs import Network
from trainables.models.shapes import blank_images, evaluating

_WARM_UP_RUNS = 5
_LEAST_RUNS = 40
_BUDGET_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module that computes: one without modules inside, or one with a weight of its own, to
    which all that is inside it belongs.

    Attributes:
        name: in the network.
        kind: its class; of a convolution with its kernel, and stride and groups that are not 1.
        output: shape of what it returns for one image, without the batch; empty where it was not
            called.
        params: values that it learned.
        nonzeros: those of them that are not 0.
        bits: of a value of its weight where it is stored; None without one.
        input_bits: of a value of its input; None where inputs are not quantised.
        macs: multiply-accumulates for one image, of all its calls.
        ms: milliseconds of one image, of all its calls, median.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    nonzeros: int
    bits: int | None
    input_bits: int | None
    macs: int
    ms: float


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """All layers of a network, in the order in which it has them.

    Attributes:
        layers: at least one.
        ms: of a whole pass of one image, median.
        params, nonzeros: of the whole network.
    """

    layers: tuple[Layer, ...]
    ms: float
    params: int
    nonzeros: int

    @property
    def macs(self) -> int:
        """Of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def between(self) -> float:
        """Milliseconds of a pass that are in no layer: additions, functions, Python itself."""
        return max(0.0, self.ms - sum(layer.ms for layer in self.layers))

    @property
    def whole(self) -> float:
        """Milliseconds of which shares are taken: all layers and what is between them."""
        return self.between + sum(layer.ms for layer in self.layers)


@torch.inference_mode()
def layer_table(network: Network, image_shape: ImageShape) -> LayerTable:
    """Counts and times the layers of a network, for one black image, where the network is.

    Times are medians of warm passes of the eager network: in turn one whole and one by layers,
    whose hooks take time of their own, at least 40 of each and half a second of them. The slower
    half does not count: what else runs on the machine falls into it. Modes, weights and hooks are
    as before afterwards.

    Args:
        network: on the CPU or a GPU.
        image_shape: ``(C, H, W)``.
    """
    images = blank_images(network, image_shape)
    found = layers_of(network)

    def seconds() -> float:
        start = _clock(images)
        network(images)
        return _clock(images) - start

    with evaluating(network):
        with FlopCounter() as counter:
            counted = _Heard(lambda: counter.flops)
            with _listening(found, counted):
                network(images)
        for _ in range(_WARM_UP_RUNS):
            seconds()
        wholes: list[float] = []
        passes: list[tuple[float, _Heard]] = []
        while len(wholes) < _LEAST_RUNS or sum(wholes) < _BUDGET_SECONDS:
            wholes.append(seconds())
            heard = _Heard()
            with _listening(found, heard):
                passes.append((seconds(), heard))
    quick = sorted(passes, key=lambda one: one[0])[: len(passes) // 2]
    heard_of = [heard for _, heard in quick]
    return LayerTable(
        layers=tuple(_layer(name, module, counted, heard_of) for name, module in found.items()),
        ms=1000 * statistics.median(sorted(wholes)[: len(wholes) // 2]),
        params=sum(one.numel() for one in _values(network)),
        nonzeros=sum(int(one.count_nonzero()) for one in _values(network)),
    )


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network by name, as `Layer` has them; identities are none."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        leaf = not any(module.children())
        if isinstance(module, nn.Identity) or not name or inside:
            continue
        if leaf or isinstance(getattr(module, "weight", None), Tensor):
            found[name] = module
    return found


@dataclass
class _Heard:
    """What hooks saw of one pass, by module; shapes and operations where somebody counts."""

    flops: Callable[[], int] | None = None
    outputs: dict[nn.Module, tuple[int, ...]] = field(default_factory=dict)
    macs: dict[nn.Module, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[nn.Module, float] = field(default_factory=lambda: defaultdict(float))


@contextmanager
def _listening(layers: dict[str, nn.Module], heard: _Heard) -> Iterator[None]:
    begun: dict[nn.Module, tuple[float, int]] = {}

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        begun[module] = _clock(*inputs), heard.flops() if heard.flops else 0

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        start, flops = begun.pop(module)
        heard.seconds[module] += _clock(output) - start
        if heard.flops:
            heard.macs[module] += (heard.flops() - flops) // 2
            heard.outputs[module] = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    handles = []
    try:
        for module in layers.values():
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clock(*like: Any) -> float:
    """Seconds, after all that a device still had to do."""
    if any(isinstance(one, Tensor) and one.is_cuda for one in like):
        torch.cuda.synchronize()
    return time.perf_counter()


def _layer(name: str, module: nn.Module, counted: _Heard, passes: list[_Heard]) -> Layer:
    weight = getattr(module, "weight", None)
    stored = 8 * weight.element_size() if isinstance(weight, Tensor) else None
    values = list(_values(module))
    return Layer(
        name=name,
        kind=_kind(module),
        output=counted.outputs.get(module, ()),
        params=sum(one.numel() for one in values),
        nonzeros=sum(int(one.count_nonzero()) for one in values),
        bits=getattr(module, "weight_bits", stored),
        input_bits=getattr(module, "input_bits", None),
        macs=counted.macs[module],
        ms=1000 * statistics.median(one.seconds[module] for one in passes),
    )


def _values(module: nn.Module) -> Iterator[Tensor]:
    """What a module learned: its parameters, and weights that are kept as integers."""
    yield from module.parameters()
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2] == "weight":
            yield buffer


def _kind(module: nn.Module) -> str:
    text = type(module).__name__
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple):
        text += " " + "x".join(map(str, kernel))
        stride, groups = getattr(module, "stride", (1,)), getattr(module, "groups", 1)
        if math.prod(stride) != 1:
            text += f", stride {stride[0]}"
        if groups != 1:
            text += f", {groups} groups"
    return text
