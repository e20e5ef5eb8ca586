"""LSQ against its equations, and the layers that compute with it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Bits
from trainables.models.fake_quantised import (
    FakeQuantised,
    FakeQuantisedLayer,
    FakeQuantisedSubsampling,
    Widths,
    fake_quantise,
    initial_step,
)
from trainables.models.layers import Subsampling

SHAPE = (3, 8, 8)


# The equations


def test_the_gradients_by_hand():
    """w = -3 is below the range of -2 to 1: its slope is -2; of 0.4 it is 0 - 0.4."""
    weight = torch.tensor([-3.0, 0.4], requires_grad=True)
    step = torch.ones(1, requires_grad=True)
    found = fake_quantise(weight, step, bits=2, signed=True, count=2)
    found.sum().backward()
    assert found.tolist() == [-2.0, 0.0]
    assert weight.grad.tolist() == [0.0, 1.0]
    assert step.grad.item() == pytest.approx(-2.4 / 2**0.5, abs=1e-6)


def reference(values, step, low, high, count, gradient):
    """Equations 1 to 3 and 5 for one step size, value by value."""
    found, of_values, of_step = [], [], 0.0
    for v, upstream in zip(values, gradient, strict=True):
        x = v / step
        found.append(float(np.rint(min(max(x, low), high))) * step)
        if x <= low or x >= high:
            slope, passed = (low if x <= low else high), 0.0
        else:
            slope, passed = float(np.rint(x)) - x, upstream
        of_values.append(passed)
        of_step += slope * upstream
    return found, of_values, of_step / (count * high) ** 0.5


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("steps", [1, 4], ids=["per layer", "per channel"])
def test_the_equations(bits, signed, steps):
    drawn = torch.Generator().manual_seed(bits)
    values = 3 * torch.randn(4, 30, generator=drawn, dtype=torch.float64)
    step = torch.randint(16, 80, (steps,), generator=drawn) / 64.0  # halves of halves: exact
    step = step.double()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values[:, 0], values[:, 1] = step * high, step * low  # the very ends of the range
    upstream = torch.randn(values.shape, generator=drawn, dtype=torch.float64)
    count = values.numel() // steps
    values.requires_grad_(), step.requires_grad_()
    found = fake_quantise(values, step, bits, signed, count)
    found.backward(upstream)

    parts = values.detach().view(steps, -1).tolist()
    gradients = upstream.view(steps, -1).tolist()
    for row, own in enumerate(step.tolist()):
        wanted = reference(parts[row], own, low, high, count, gradients[row])
        torch.testing.assert_close(found.detach().view(steps, -1)[row].tolist(), wanted[0])
        torch.testing.assert_close(values.grad.view(steps, -1)[row].tolist(), wanted[1])
        assert step.grad[row].item() == pytest.approx(wanted[2], rel=1e-9)
    assert (values.grad[:, :2] == 0).all()


def test_steps_begin_as_the_paper_has_them():
    """2 · 1.5 / sqrt(7), and 1 where there is nothing to go by."""
    assert initial_step(torch.tensor(1.5), 4, signed=True).item() == pytest.approx(3 / 7**0.5)
    assert initial_step(torch.tensor(1.5), 4, signed=False).item() == pytest.approx(3 / 15**0.5)
    assert initial_step(torch.zeros(1), 4, signed=True).item() == 1


def test_a_gradient_has_a_gradient():
    values = torch.tensor([0.4, -0.7, 3.0], requires_grad=True)
    found = fake_quantise(values, torch.ones(1), bits=2, signed=True, count=3)
    (slope,) = torch.autograd.grad((found**2).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), values)
    assert second.tolist() == [2.0, 2.0, 0.0]


@pytest.mark.parametrize(("per_channel", "count"), [(False, 8 * 3 * 9), (True, 3 * 9)])
def test_the_gradient_of_a_layers_steps_has_its_scale(per_channel, count):
    """Per channel N is of the channel; of activations the features of one image, not of three."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3, padding=1)
    network = nn.Sequential(layer)
    widths = Widths(weight_bits=4, input_bits=3, input_signed=True, per_channel=per_channel)
    FakeQuantised.of({"0": widths}).apply(network)
    x, upstream = torch.randn(3, 3, 8, 8), torch.randn(3, 8, 8, 8)
    layer(x).backward(upstream)

    quantised = layer.quantised_weight().detach().requires_grad_()
    shown = layer.quantised_input(x).detach().requires_grad_()
    F.conv2d(shown, quantised, layer.bias.detach(), padding=1).backward(upstream)
    steps = layer.weight_step.tolist()
    for row, step in enumerate(steps):
        part = slice(row, row + 1) if per_channel else slice(None)
        values, slopes = layer.weight[part].flatten().tolist(), quantised.grad[part].flatten()
        wanted = reference(values, step, -8, 7, count, slopes.tolist())[2]
        assert layer.weight_step.grad[row].item() == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    wanted = reference(
        x.flatten().tolist(), layer.input_step.item(), -4, 3, 192, shown.grad.flatten().tolist()
    )[2]
    assert layer.input_step.grad.item() == pytest.approx(wanted, rel=1e-3, abs=1e-5)


# Layers


def widths(**changes):
    values = {"weight_bits": 4, "input_bits": 4, "input_signed": True, "per_channel": False}
    return Widths(**values | changes)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, 2, 1),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False),
        Subsampling(4, 6, 1, 2, bias=False),
        nn.Linear(9, 5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_itself_with_quantised_weights_and_inputs(layer):
    shape = (2, 9) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 9, 9)
    x = torch.randn(shape)
    network, plain = nn.Sequential(layer), type(layer).forward
    FakeQuantised.of({"0": widths(per_channel=True)}).apply(network)
    assert isinstance(layer, FakeQuantisedLayer)
    with torch.no_grad():
        layer.input_step.fill_(0.3)
        found = layer(x)
        given = layer.quantised_input(x)
        layer.weight.copy_(layer.quantised_weight())
        assert len(given.unique()) <= 16
        assert torch.equal(found, plain(layer, given))
        assert torch.equal(found, layer(x))  # values of the grid stay where they are


def test_few_channels_are_still_subsampled():
    network = build(Blueprint("wrn_10_0.5"), 5, SHAPE)
    narrow = [n for n, m in network.named_modules() if isinstance(m, Subsampling)]
    assert narrow
    edit(network, FakeQuantised.of(dict.fromkeys(narrow, widths())), SHAPE)
    assert all(type(network.get_submodule(n)) is FakeQuantisedSubsampling for n in narrow)


def test_a_layer_that_is_none():
    network = build(Blueprint("resnet8"), 5, SHAPE)
    with pytest.raises(UserError, match="module 'bn1' is BatchNorm2d, expected Conv2d or Linear"):
        edit(network, FakeQuantised.of({"bn1": widths()}), SHAPE)
    network.relu = nn.ReLU()
    with pytest.raises(UserError, match="module 'relu' has no weight of its own"):
        Bits.of({"relu": 4}).apply(network)
    network.conv1.__class__ = type("Other", (nn.Conv2d,), {})
    with pytest.raises(UserError, match="'conv1' is Other, expected Conv2d or Subsampling"):
        edit(network, FakeQuantised.of({"conv1": widths()}), SHAPE)
    with pytest.raises(ValueError, match="expected 2 to 8 bits, got 9"):
        widths(weight_bits=9)
