"""Layers of integers: their arithmetic by hand, and the edit that makes them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from trainables.compression.measure import count_params, size_bytes
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.fake_quantised import FakeQuantised, Widths, fake_quantised
from trainables.models.grid import Grid
from trainables.models.int8 import (
    Int8,
    Int8Conv2d,
    Int8Layer,
    Int8Linear,
    Int8Sum,
    Quantised,
    has_int8,
    norm_factors,
)

SHAPE = (3, 16, 16)


def network_of(model="resnet8"):
    torch.manual_seed(0)
    network = build(Blueprint(model), 5, SHAPE)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1, 1)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return network.eval()


def whole(name="conv1", norm="bn1"):
    return Int8.of({name: Quantised(Grid(0.02, 128), norm)}, {})


@pytest.mark.parametrize(
    ("ends", "scale", "zero_point"),
    [
        ((-1.0, 4.1), 5.1 / 255, 50),
        ((0.0, 2.55), 0.01, 0),
        ((1.0, 2.55), 0.01, 0),  # zero is a value: padding
        ((-2.55, -1.0), 0.01, 255),
        ((0.0, 0.0), 1.0, 0),
    ],
)
def test_grid_of_a_range(ends, scale, zero_point):
    grid = Grid.covering(*ends)
    assert grid.scale == pytest.approx(scale)
    assert grid.zero_point == zero_point
    assert grid.nearest(torch.zeros(1)).item() == 0


def test_values_by_hand():
    """Scale 0.5, zero at 2: integers 0 to 255 are the values -1 to 126.5; halves go to even."""
    grid, values = Grid(0.5, 2), torch.tensor([-3.0, -1.0, 0.24, 0.25, 0.75, 126.5, 200.0])
    assert grid.nearest(values).tolist() == [-1.0, -1.0, 0.0, 0.0, 1.0, 126.5, 126.5]
    assert grid.whole(values).tolist() == [-2.0, -2.0, 0.0, 0.0, 2.0, 253.0, 253.0]


@pytest.mark.parametrize(("scale", "zero_point"), [(0.0, 0), (float("inf"), 0), (1.0, 256)])
def test_impossible_grids(scale, zero_point):
    with pytest.raises(ValueError, match="expected"):
        Grid(scale, zero_point)


def test_a_layer_is_the_sum_of_integers():
    """Against NumPy in float64, from the formula."""
    generator = np.random.default_rng(0)
    p = generator.integers(-128, 128, (4, 6))
    v, s_v, z = generator.normal(size=(3, 6)).astype(np.float32), 0.03, 100
    s_w, bias = np.array([0.1, -0.2, 0.0, 0.3]), np.array([1.0, 2.0, 3.0, 4.0])
    layer = Int8Linear(
        nn.Linear(6, 4),
        torch.tensor(p, dtype=torch.int8),
        torch.tensor(s_w, dtype=torch.float32),
        torch.tensor(bias, dtype=torch.float32),
        Grid(s_v, z),
        True,
    )
    q = np.clip(np.round(v / np.float32(s_v)) + z, 0, 255)
    wanted = s_v * s_w * ((q - z) @ p.T) + bias
    found = layer(torch.tensor(v))
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_of_either_sign_is_folded_in():
    """One channel has none of its inputs, another turns their sign."""
    network, images = network_of(), torch.randn(4, *SHAPE).clamp(-2.5, 2.5)
    with torch.no_grad():
        network.bn1.weight[:2] = torch.tensor([0.0, -0.5])
        network.conv1.weight[3] = 0
    wanted = network.bn1(network.conv1(images))
    factor, shift = norm_factors(network.bn1)
    torch.testing.assert_close(
        network.conv1(images) * factor.float()[:, None, None] + shift.float()[:, None, None], wanted
    )
    integers = network.conv1.weight.detach().clone()
    edit(network, whole(), SHAPE)
    assert isinstance(network.bn1, nn.Identity)
    found = network.conv1(images)
    # The roots of 27 products' errors: half a step of 0.02, and of 127 for the weights.
    assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()
    assert network.conv1.weight_scale[0] == 0
    assert network.conv1.weight_scale[1] < 0
    assert (network.conv1.weight[3] == 0).all()
    largest = integers.abs().flatten(1).amax(1)
    assert (network.conv1.weight.abs().flatten(1).amax(1)[largest > 0] == 127).all()


@pytest.mark.parametrize("per_channel", [False, True])
def test_learned_steps_keep_their_integers(per_channel):
    """-128 is one of them, and a BatchNorm that turns the sign does not lose it."""
    network, images = network_of(), torch.randn(4, *SHAPE).clamp(-1, 1)
    widths = Widths(weight_bits=8, input_bits=8, input_signed=True, per_channel=per_channel)
    edit(network, FakeQuantised.of({"conv1": widths}), SHAPE)
    layer = network.conv1
    with torch.no_grad():
        layer.weight_step.mul_(0.1)
        layer.input_step.fill_(1 / 100)
        layer.weight[1, 0, 0, 0] = -10.0
        network.bn1.weight[1] = -1.0
    wanted = network.bn1(layer(images))
    whole_weight = (layer.weight / layer.weight_step.view(-1, 1, 1, 1)).clamp(-128, 127).round()
    grid = Grid.learned(layer.input_step.item(), signed=True)
    assert (grid.scale, grid.zero_point) == (torch.tensor(1 / 100).item(), 128)

    edit(network, Int8.of({"conv1": Quantised(grid, "bn1")}, {}), SHAPE)

    assert torch.equal(network.conv1.weight.float(), whole_weight)
    assert network.conv1.weight[1, 0, 0, 0] == -128
    torch.testing.assert_close(network.conv1(images), wanted, rtol=1e-4, atol=1e-4)
    assert not fake_quantised(network)


def test_sums_of_quantised_terms():
    network = network_of()
    edit(network, Int8.of({}, {"layer1.0.sum": (Grid(0.5, 0), Grid(0.25, 128))}), SHAPE)
    assert isinstance(network.layer1[0].sum, Int8Sum)
    found = network.layer1[0].sum(torch.tensor([0.6, -1.0]), torch.tensor([0.3, -0.1]))
    assert found.tolist() == [0.5 + 0.25, 0.0]


def test_bytes_and_parameters_are_those_of_integers():
    network = network_of()
    before, params = size_bytes(network), count_params(network)
    edit(network, whole(), SHAPE)
    # 432 weights of 4 bytes, and scale, shift and statistics with their counter; then integers,
    # a scale and a shift.
    assert before - size_bytes(network) == 432 * 4 + 4 * 16 * 4 + 8 - (432 + 2 * 16 * 4)
    assert params - count_params(network) == 16  # two numbers for a channel have become one


def test_meta_networks_become_the_same():
    with torch.device("meta"):
        empty = build(Blueprint("resnet8", (whole(),)), 5, SHAPE)
    network = network_of()
    edit(network, whole(), SHAPE)
    kinds = {key: (value.shape, value.dtype) for key, value in network.state_dict().items()}
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items()} == kinds
    assert has_int8(empty)
    assert empty.blueprint == Blueprint.from_json(network.blueprint.to_json())


def test_autocast_changes_nothing():
    network, images = network_of(), torch.randn(2, *SHAPE)
    edit(network, whole(), SHAPE)
    wanted = network.conv1(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.conv1(images), wanted)


def test_a_module_under_two_names_is_one_afterwards():
    network = network_of()
    network.also = network.conv1
    edit(network, whole(), SHAPE)
    assert network.also is network.conv1
    assert isinstance(network.also, Int8Conv2d)


def test_a_copy_is_of_its_own():
    network = network_of()
    edit(network, whole(), SHAPE)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.conv1.weight.zero_()
    assert network.conv1.weight.any()
    assert sum(isinstance(module, Int8Layer) for module in other.modules()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (whole("conv9"), "no module 'conv9'"),
        (whole(norm="relu"), "'relu' is ReLU, expected BatchNorm2d"),
        (whole("bn1"), "'bn1' is BatchNorm2d, expected Conv2d or Linear"),
        (Int8.of({}, {"conv1": (Grid(1, 0), Grid(1, 0))}), "'conv1' is Conv2d, expected Sum"),
    ],
)
def test_an_edit_that_does_not_fit(change, words):
    with pytest.raises(UserError, match=words):
        edit(network_of(), change, SHAPE)


def test_integers_become_no_integers_again():
    network = network_of()
    edit(network, whole(), SHAPE)
    with pytest.raises(UserError, match="'conv1' is Int8Conv2d"):
        edit(network, whole(), SHAPE)
