"""The kinds of edits that steps of ours leave in a blueprint: kept channels, bit widths."""

import itertools
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.blueprint import Edit, module_of
from trainables.models.fake_quantised import FakeQuantisedLayer
from trainables.models.layers import subsample
from trainables.models.outputs import Network
from trainables.models.resnet import ZeroPadShortcut

Kept = Mapping[str, Iterable[int] | Tensor]
"""Names of modules, and which of their channels stay."""

MASK = "weight_mask"
"""The buffer that says which weights of a module may be other than zero."""

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Channels(Edit):
    """Channels that stay, by module; the others are cut out.

    Of convolutions and linear layers outputs and inputs, of BatchNorm the one axis that it has,
    as outputs. Who cuts a channel cuts it wherever it is written and read. In a convolution of
    several groups, groups that lose all their channels go; the others have to stay equally large.

    Attributes:
        outputs, inputs: names of modules, sorted, with ranges of channels: ``0-7,9``.
    """

    kind: ClassVar[str] = "channels"

    outputs: tuple[tuple[str, str], ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def kept(cls, outputs: Kept | None = None, inputs: Kept | None = None) -> "Channels":
        """The edit that keeps these channels of these modules, and all of the others.

        Args:
            outputs, inputs: by name of module; positions of channels, in any order.
        """
        return cls(_packed(outputs or {}), _packed(inputs or {}))

    def apply(self, network: Network) -> None:
        outputs, inputs = dict(self.outputs), dict(self.inputs)
        for name in sorted({*outputs, *inputs}):
            module = module_of(network, name, nn.Conv2d, nn.Linear, *_NORMS, ZeroPadShortcut)
            if isinstance(module, FakeQuantisedLayer):
                raise UserError(f"edit: module '{name}' is fake-quantised; channels are cut before")
            if isinstance(module, nn.Conv2d):
                rows = _positions(name, "outputs", outputs.get(name), module.out_channels)
                columns = _positions(name, "inputs", inputs.get(name), module.in_channels)
                _cut_convolution(name, module, rows, columns)
                subsample(module)
            elif isinstance(module, nn.Linear):
                rows = _positions(name, "outputs", outputs.get(name), module.out_features)
                columns = _positions(name, "inputs", inputs.get(name), module.in_features)
                _keep(module, (*_weights(module), "bias"), rows)
                for tensor in _weights(module):
                    _put(module, tensor, _taken(getattr(module, tensor), columns, 1))
                module.out_features, module.in_features = len(rows), len(columns)
            elif isinstance(module, ZeroPadShortcut):
                module.keep(
                    _positions(name, "outputs", outputs.get(name), module.outputs),
                    _positions(name, "inputs", inputs.get(name), module.inputs),
                    next(network.parameters()).device,
                )
            elif isinstance(module, _NORMS):
                if name in inputs:
                    raise UserError(f"edit: module '{name}' has outputs only, as a BatchNorm has")
                rows = _positions(name, "outputs", outputs[name], module.num_features)
                _keep(module, ("weight", "bias", "running_mean", "running_var"), rows)
                module.num_features = len(rows)

    @property
    def structure(self) -> Hashable:
        """How many channels stay, whichever they are."""
        sides = (self.outputs, self.inputs)
        return tuple(tuple((name, len(_channels(kept))) for name, kept in side) for side in sides)

    def to_dict(self) -> dict[str, Any]:
        return {"outputs": dict(self.outputs), "inputs": dict(self.inputs)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Channels":
        ranges = [*values["outputs"].values(), *values["inputs"].values()]
        wrong = [text for text in ranges if not _RANGES.fullmatch(text)]
        if wrong:
            raise ValueError(f"expected ranges of channels, such as 0-7,9, got {wrong[0]!r}")
        sides = (values["outputs"], values["inputs"])
        return cls.kept(*({name: _channels(kept) for name, kept in side.items()} for side in sides))


@dataclass(frozen=True)
class Bits(Edit):
    """Bit widths of weights, by module: what a value of ``weight`` takes where it is stored.

    The values themselves stay as they are: who rounds them says so. `measure.size_bytes` counts
    by these widths. What else a format stores (scales, zero points) is not counted.

    Attributes:
        weights: names of modules, sorted, with 1 to 32 bits.
    """

    kind: ClassVar[str] = "bits"
    settles: ClassVar[bool] = True

    weights: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, weights: Mapping[str, int]) -> "Bits":
        """The edit that records these widths.

        Raises:
            ValueError: one is not from 1 to 32.
        """
        for name, bits in weights.items():
            if not 1 <= bits <= 32:
                raise ValueError(f"{name}: expected 1 to 32 bits, got {bits}")
        return cls(tuple(sorted(weights.items())))

    def apply(self, network: Network) -> None:
        for name, bits in self.weights:
            module = module_of(network, name)
            if not isinstance(getattr(module, "weight", None), Tensor):
                raise UserError(f"edit: module '{name}' has no weight of its own")
            module.weight_bits = bits  # type: ignore[assignment]

    @property
    def structure(self) -> None:
        """What a value takes on disk is nothing to the code."""
        return

    def to_dict(self) -> dict[str, Any]:
        return {"weights": dict(self.weights)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Bits":
        return cls.of({name: int(bits) for name, bits in values["weights"].items()})


def _cut_convolution(name: str, module: nn.Conv2d, rows: Tensor, columns: Tensor) -> None:
    """Cuts every group by itself: its filters know its own inputs only."""
    for tensor in _weights(module):
        _put(module, tensor, _cut_groups(name, module, getattr(module, tensor), rows, columns))
    _keep(module, ("bias",), rows)
    high = module.out_channels // module.groups
    module.groups = len({row // high for row in rows.tolist()})
    module.out_channels, module.in_channels = len(rows), len(columns)


def _cut_groups(
    name: str, module: nn.Conv2d, weight: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    high, wide = (count // module.groups for count in (module.out_channels, module.in_channels))
    kept: list[Tensor] = []
    for group in range(module.groups):
        own = rows[rows // high == group]
        seen = columns[columns // wide == group] - group * wide
        if bool(len(own)) != bool(len(seen)):
            lost, left = ("outputs", "inputs") if len(seen) else ("inputs", "outputs")
            raise UserError(f"edit: group {group} of module '{name}' has {left} left, no {lost}")
        if len(own):
            kept.append(_taken(_taken(weight, own, 0), seen, 1))
    if len({part.shape for part in kept}) > 1:
        raise UserError(f"edit: the groups of module '{name}' would differ in size")
    return torch.cat(kept)


def _weights(module: nn.Module) -> list[str]:
    """The weight of a module, and its mask where it has one."""
    return ["weight", *(name for name in (MASK,) if name in module._buffers)]


def _keep(module: nn.Module, tensors: Iterable[str], rows: Tensor) -> None:
    """Keeps rows of those tensors that the module has."""
    for name in tensors:
        if getattr(module, name) is not None:
            _put(module, name, _taken(getattr(module, name), rows, 0))


def _taken(values: Tensor, positions: Tensor, axis: int) -> Tensor:
    return values.detach().index_select(axis, positions.to(values.device))


def _put(module: nn.Module, name: str, values: Tensor) -> None:
    old = getattr(module, name)
    learned = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(values, old.requires_grad) if learned else values)


def _packed(kept: Kept) -> tuple[tuple[str, str], ...]:
    return tuple((name, _ranges(kept[name])) for name in sorted(kept))


def _ranges(channels: Iterable[int] | Tensor) -> str:
    """``0-7,9`` for 0 to 7 and 9."""
    order = sorted({int(channel) for channel in channels})
    runs = itertools.groupby(enumerate(order), key=lambda pair: pair[1] - pair[0])
    ends = [[channel for _, channel in run] for _, run in runs]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in ends)


def _channels(ranges: str) -> list[int]:
    """0 to 7 and 9 for ``0-7,9``."""
    bounds = [list(map(int, part.split("-"))) for part in ranges.split(",") if part]
    return sorted({channel for ends in bounds for channel in range(ends[0], ends[-1] + 1)})


def _positions(name: str, side: str, ranges: str | None, count: int) -> Tensor:
    """The channels that ranges are about, growing; all of ``count`` where there are none."""
    with torch.device("cpu"):
        if ranges is None:
            return torch.arange(count)
        found = _channels(ranges)
        if not found or found[-1] >= count:
            raise UserError(
                f"edit: module '{name}' keeps {side} {ranges or 'of no channel'}, "
                f"expected some of 0 to {count - 1}"
            )
        return torch.tensor(found)
