"""Counts of operations, by hand; weights that two names lead to; nothing stays behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from trainables.compression.measure import (
    count_macs,
    count_params,
    macs_of,
    nonzero_params,
    size_bytes,
)
from trainables.measurement.operations import bit_operations, bit_operations_of
from trainables.models.blueprint import Blueprint, build
from trainables.models.edits import Bits

CIFAR = (3, 32, 32)


class Rounding(nn.Conv2d):
    """As layers of quantisation-aware training are: it computes with a weight made at call time."""

    def __init__(self, *args: Any, weight_bits: int, input_bits: int | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight_bits, self.input_bits = weight_bits, input_bits
        self.step = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight / self.step).round() * self.step
        return self._conv_forward((x / self.step).round() * self.step, weight, self.bias)


class Twice(nn.Module):
    """One layer that is run twice, and that two names lead to."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = self.second = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def hooks_of(model: nn.Module) -> list[Any]:
    """All hooks: of the modules, and of all modules there are."""
    kinds = [name for name in vars(model) if name.endswith("_hooks")]
    own = [hook for one in model.modules() for kind in kinds for hook in vars(one)[kind].values()]
    everywhere = [name for name in vars(torch_modules) if name.startswith("_global_")]
    found = [vars(torch_modules)[name] for name in everywhere if name.endswith("_hooks")]
    return own + [hook for hooks in found for hook in hooks.values()]


def test_a_layer_that_is_used_twice_has_its_weights_once() -> None:
    model, rows = Twice(nn.Linear(1000, 1000)), (1, 20, 1000)
    assert count_params(model) == 1_001_000
    assert count_macs(model, rows) == 40_000_000
    assert bit_operations(model, rows) == 40_000_000 * 32 * 32
    assert size_bytes(model) == 4 * 1_001_000
    assert nonzero_params(model) == int((model.first.weight != 0).sum() + 1000)


def test_a_layer_of_few_bits_that_is_used_twice() -> None:
    layer = nn.Linear(1000, 1000)
    layer.weight_bits, layer.input_bits = 4, 8  # type: ignore[assignment]
    assert bit_operations(Twice(layer), (1, 20, 1000)) == 40_000_000 * 4 * 8


def test_a_depthwise_convolution() -> None:
    model = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    assert count_macs(model, (32, 16, 16)) == 73_728
    assert bit_operations(model, (32, 16, 16)) == 73_728 * 1024


@pytest.mark.parametrize(("groups", "macs"), [(1, 8 * 12), (2, 8 * 6), (4, 8 * 3)])
def test_groups_divide_the_inputs(groups: int, macs: int) -> None:
    model = nn.Conv2d(12, 8, 3, padding=1, groups=groups, bias=False)
    assert count_macs(model, (12, 5, 7)) == macs * 9 * 5 * 7


def test_bits_of_a_mixed_network_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),  # 3 * 4 * 9 * 64 MACs
        Rounding(4, 8, 1, weight_bits=2, input_bits=3),  # 32 * 64
        nn.Sequential(nn.ReLU(), Rounding(8, 8, 3, groups=2, weight_bits=8, input_bits=8)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    last = model[-1]
    last.weight_bits = 8  # weights alone: the inputs are what they are
    grouped = 8 * 4 * 9 * 36
    assert count_macs(model, (3, 8, 8)) == 108 * 64 + 32 * 64 + grouped + 40
    by_hand = 108 * 64 * 1024 + 32 * 64 * 2 * 3 + grouped * 64 + 40 * 8 * 32
    assert bit_operations(model, (3, 8, 8)) == by_hand


def test_of_modules_in_modules_the_inner_one_says() -> None:
    inner = Rounding(3, 3, 1, weight_bits=2, input_bits=2)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), inner)
    model.weight_bits, model.input_bits = 8, 8  # type: ignore[assignment]
    assert bit_operations(model, (3, 4, 4)) == 9 * 16 * 64 + 9 * 16 * 4


def test_edits_that_record_bits_count() -> None:
    plain = Blueprint("resnet8")
    cut = plain.edited(Bits.of({"layer1.0.conv1": 8}))
    layer = 16 * 16 * 9 * 32 * 32
    whole = bit_operations_of(plain, 10, CIFAR)
    assert whole == macs_of(plain, 10, CIFAR) * 1024
    assert bit_operations_of(cut, 10, CIFAR) == whole - layer * 32 * (32 - 8)
    assert bit_operations(build(cut, 10, CIFAR), CIFAR) == bit_operations_of(cut, 10, CIFAR)


def test_counting_leaves_nothing_behind() -> None:
    model = nn.Sequential(Rounding(3, 4, 3, weight_bits=4, input_bits=4), nn.ReLU()).train()
    model[1].eval()
    before = hooks_of(model)
    bit_operations(model, (3, 8, 8))
    count_macs(model, (3, 8, 8))
    with pytest.raises(RuntimeError):
        bit_operations(model, (5, 8, 8))
    assert hooks_of(model) == before == []
    assert [one.training for one in model.modules()] == [True, True, False]


def test_zeros_are_not_counted_wherever_they_are_from() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(4, 4))
    assert nonzero_params(model) == count_params(model) - 3  # the shifts
    with torch.no_grad():
        model[0].weight[1] = 0
        model[2].weight.zero_()
    assert nonzero_params(model) == count_params(model) - 3 - 2 - 16
    model[2].requires_grad_(False)
    assert nonzero_params(model) == 6 + 3 - 2 + 3
    assert nonzero_params(model, frozen=True) == 6 + 3 - 2 + 3 + 4


def test_inputs_that_are_not_rounded_are_of_full_width() -> None:
    """As those of `trainables.models.fake_quantised` where weights alone are."""
    model = Rounding(3, 4, 1, weight_bits=4, input_bits=None)
    assert bit_operations(model, (3, 2, 2)) == 3 * 4 * 2 * 2 * 4 * 32
