"""LSQ against its equations, and quantisation-aware training of whole networks."""

import io
import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables import once
from trainables.compression.chain import Chain, check_steps
from trainables.compression.measure import count_params, size_bytes
from trainables.compression.qat import QAT
from trainables.compression.registry import resolve_chain
from trainables.compression.step import Scene, Step
from trainables.engine import compiling
from trainables.engine.compiling import CompiledNetwork
from trainables.engine.precision import computing
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Bits, Channels
from trainables.models.fake_quantised import (
    FakeQuantised,
    FakeQuantisedLayer,
    FakeQuantisedSubsampling,
    Widths,
    fake_quantise,
    fake_quantised,
    initial_step,
)
from trainables.models.features import with_features
from trainables.models.layers import Subsampling
from trainables.models.masks import masks
from trainables.training import Training
from trainables.training.steps import take_steps

CPU = torch.device("cpu")
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


def test_channels_are_cut_before():
    network = quantised()
    with pytest.raises(
        UserError, match=r"'layer1\.0\.conv1' is fake-quantised; channels are cut be"
    ):
        edit(network, Channels.kept({"layer1.0.conv1": [0, 1]}), SHAPE)


# Networks


def network_of(model="resnet8"):
    torch.manual_seed(1)
    network = build(Blueprint(model), 5, SHAPE)
    with torch.no_grad():
        network(torch.randn(64, *SHAPE))
    return network.eval()


@torch.no_grad()
def at(moment, network, **settings):
    """What a step says at one of its moments."""
    images = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    step = QAT(QAT.Config(**settings))
    target = torch.zeros(64, dtype=torch.int64)
    batches = lambda count: iter([(images[:count], target[:count])])  # noqa: E731
    scene = Scene(network, batches, torch.Generator(), SHAPE, CPU)
    changes = step.at(moment, scene)
    for change in changes:
        edit(network, change, SHAPE)
    return changes


def quantised(model="resnet8", **settings):
    """A network behind the beginning of its quantisation."""
    network = network_of(model)
    at(0.0, network, **settings)
    return network


def test_the_first_and_the_last_layer_have_bits_of_their_own():
    (change,) = at(0.0, network_of(), amount=3, activations=5, ends=6)
    found = dict(change.layers)
    for name, own in found.items():
        end = name in ("conv1", "classifier")
        assert own.weight_bits == (6 if end else 3)
        assert own.input_bits == (6 if end else 5)
    record = change.to_dict()["layers"]["layer1.0.conv1"]
    assert record == {
        "weight_bits": 3,
        "input_bits": 5,
        "input_signed": False,
        "per_channel": False,
    }


def test_inputs_have_a_sign_where_they_need_one():
    """Behind a ReLU there is none; images, and what a linear bottleneck returns, have one."""
    layers = fake_quantised(quantised("mobilenetv2_x0.1"))
    assert layers["features.0.0"].input_signed
    signed = {layer.input_signed for layer in layers.values()}
    assert signed == {True, False}
    resnet = fake_quantised(quantised())
    assert [name for name, layer in resnet.items() if layer.input_signed] == ["conv1"]


@pytest.mark.parametrize("per_channel", [False, True])
def test_steps_begin_with_weights_and_images(per_channel):
    network = network_of()
    images = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    weight = network.conv1.weight.detach().clone()
    at(0.0, network, amount=4, ends=4, per_channel=per_channel)
    layer = network.conv1
    mean = weight.abs().mean((1, 2, 3) if per_channel else None)
    torch.testing.assert_close(layer.weight_step.detach(), (2 * mean / 7**0.5).view(-1))
    wanted = 2 * images.abs().mean() / 7**0.5
    torch.testing.assert_close(layer.input_step.detach(), wanted.view(1))


def test_activations_may_stay():
    network = quantised(weights_only=True)
    for layer in fake_quantised(network).values():
        assert layer.input_step is None
        assert layer.input_bits is None
    assert not any("input_step" in key for key in network.state_dict())


def test_at_the_end_weights_are_what_was_computed_with():
    network = quantised(amount=2, ends=3)
    images = torch.randn(3, *SHAPE)
    with torch.no_grad():
        before = network(images).logits
    (bits,) = at(1.0, network, amount=2, ends=3)
    with torch.no_grad():
        assert torch.equal(network(images).logits, before)
    assert dict(bits.weights)["conv1"] == 3
    assert dict(bits.weights)["layer2.0.conv1"] == 2
    assert len(network.get_parameter("layer2.0.conv1.weight").unique()) <= 4


def test_bytes_are_those_of_packed_weights():
    network = quantised(amount=2)
    others = sum(
        4 * value.numel() if value.is_floating_point() else 8
        for key, value in network.state_dict().items()
        if not (key.endswith("weight") and value.ndim > 1)
    )
    packed = sum(
        layer.weight.numel() * (8 if name in ("conv1", "classifier") else 2) // 8
        for name, layer in fake_quantised(network).items()
    )
    assert size_bytes(network) == others + packed
    steps = 2 * len(fake_quantised(network))
    assert count_params(network) == count_params(network_of()) + steps


def test_steps_are_positive_whatever_the_learning_rate():
    network, step = quantised(), QAT(QAT.Config())
    begun = network.conv1.weight_step.clone()
    with torch.no_grad():
        network.conv1.weight_step.neg_()
        step.after_update(network)
    assert torch.equal(network.conv1.weight_step, begun)
    for scale in (0.0, -1.0, -1e30):
        with torch.no_grad():
            for layer in fake_quantised(network).values():
                layer.weight_step.mul_(scale), layer.input_step.mul_(scale)
            step.after_update(network)
        assert all((layer.weight_step > 0).all() for layer in fake_quantised(network).values())
        assert all((layer.input_step > 0).all() for layer in fake_quantised(network).values())


def test_what_stays_in_floating_point_is_said(caplog):
    once.warn_once.cache_clear()
    network = build(Blueprint("resnet8-eca"), 5, SHAPE)
    with caplog.at_level(logging.WARNING):
        QAT(QAT.Config()).check(network, SHAPE)
    assert (
        "3 weights stay in floating point in resnet8-eca: layer1.0.eca.conv.weight" in caplog.text
    )


def test_a_student_that_is_judged_stays_as_it_is():
    network = network_of().train()
    before = {key: values.clone() for key, values in network.state_dict().items()}
    QAT(QAT.Config()).check(network, SHAPE)
    assert network.training
    assert all(torch.equal(before[key], values) for key, values in network.state_dict().items())


def test_hooks_of_layers_fire():
    network = quantised()
    key = "module:layer1.0.conv1"
    said = with_features(network, torch.randn(2, *SHAPE), [key], None, learning=False)
    assert said.features[key].shape == (2, 16, 8, 8)


def test_a_network_of_another_library():
    network = network_of("timm:resnet10t")
    at(0.0, network, amount=4)
    layers = fake_quantised(network)
    assert len(layers) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())
    ends = [layer for layer in layers.values() if layer.weight_bits == 8]
    assert len(ends) == 2
    assert ends[0] is next(iter(layers.values()))
    assert ends[1] is network.classifier


def test_bf16_quantises_in_full_precision():
    """A step between values that bf16 cannot tell apart."""
    values, step = torch.tensor([100.0], dtype=torch.bfloat16), torch.tensor([0.999])
    with computing("bf16", CPU):
        found = fake_quantise(values, step, bits=8, signed=True, count=1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(99.9, abs=1e-5)


# Chains


@dataclass(frozen=True)
class Nothing:
    """No settings."""


def step_of(name, *moments, followers=None):
    made = Step(Nothing())
    made.name, made.moments, made.followers = name, moments, followers
    return made


def test_which_steps_may_follow():
    network = network_of()
    (qat,) = Chain("qat", resolve_chain("qat", {})).steps
    int8 = step_of("int8", 1.0, followers=())
    check_steps([qat, int8], network, SHAPE)
    check_steps([step_of("a", 0.0), qat, int8], network, SHAPE)
    for steps, said in (
        ([qat, step_of("prune", 1.0)], "'prune' would change what 'qat' leaves; only 'int8' may f"),
        ([int8, step_of("prune", 1.0)], "'prune' would change .* 'int8' has to be the last step"),
        ([qat, int8, step_of("prune", 1.0)], "'prune' would change what 'qat' leaves"),
        ([step_of("prune", 0.0, 0.5), qat], "'prune' goes on until 0.5 .* but 'qat' begins at 0;"),
    ):
        with pytest.raises(UserError, match=said):
            check_steps(steps, network, SHAPE)


def test_a_student_that_is_fake_quantised_already():
    network = quantised()
    for name in ("qat", "prune", "rtn"):
        steps = Chain(name, resolve_chain(name, {})).steps
        with pytest.raises(UserError, match=f"{name}: the student is fake-quantised already"):
            check_steps(steps, network, SHAPE)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"qat": 9}, "qat: expected a whole number from 2 to 8, got 9"),
        ({"qat": 1}, "qat: expected a whole number from 2 to 8, got 1"),
        ({"qat.activations": 16}, "qat.activations: expected a whole number from 2 to 8, got 16"),
        ({"qat.begin": 1.5}, "qat.begin: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_settings_that_cannot_be(values, said):
    with pytest.raises(UserError, match=said):
        resolve_chain("qat", values)


# Trainings


@pytest.fixture
def train(digits, quick, digits_teacher):
    """A training of a chain on a tenth of the digits."""

    def make(epochs=2, **changes):
        changes = {"epochs": 2, "train_fraction": 0.1, "lr": 0.02, "method": "student"} | changes
        config = quick(**changes)
        chain = Chain(config.compression, config.chain)
        teacher = digits_teacher.load() if config.teacher else None
        training = Training(config, digits, config.student, teacher, CPU, chain.steps)
        training.losses = [training.run_epoch()["train_loss"] for _ in range(epochs)]
        return training

    return make


def same(one, other):
    ours, theirs = one.student.state_dict(), other.student.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("begin", [0, 0.5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interruption_changes_nothing(train, begin, precision):
    settings = {"qat": 3, "qat.begin": begin, "precision": precision, "qat.per_channel": True}
    whole, first = train(**settings), train(1, **settings)
    assert bool(fake_quantised(first.student)) == (begin == 0)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = train(0, **settings)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    second.run_epoch()
    assert same(whole, second)
    assert whole.student.blueprint == second.student.blueprint
    assert whole.val_score() == second.val_score()


def test_no_epoch_to_train_in_is_said(train, caplog):
    once.warn_once.cache_clear()
    training = train(epochs=1, **{"qat": 4, "qat.begin": 0.9})
    assert "left no epoch" not in caplog.text
    training.run_epoch()
    assert "qat.begin: 0.9 left no epoch to train step sizes in" in caplog.text
    assert fake_quantised(training.student)
    once.warn_once.cache_clear()
    caplog.clear()
    train(qat=4)
    assert "left no epoch" not in caplog.text


def test_weights_and_steps_are_learned(train):
    training = train(1, qat=4)
    begun = train(0, qat=4)
    layers = fake_quantised(training.student)
    assert len(layers) == 10
    for name, layer in layers.items():
        start = initial_step(
            begun.student.get_parameter(f"{name}.weight").abs().mean(), layer.weight_bits, True
        )
        assert layer.weight_step.item() != start.item()


@pytest.mark.parametrize("chain", ["sparsify+qat", "prune+qat"])
def test_behind_pruning(train, chain):
    settings = {"sparsify": 0.5, "sparsify.end": 0} if "sparsify" in chain else {"prune": 1.5}
    training = train(1, compression=chain, qat=3, **settings)
    assert fake_quantised(training.student)
    if "sparsify" in chain:
        assert masks(training.student)
        for name, mask in masks(training.student).items():
            layer = training.student.get_submodule(name)
            assert (layer.weight[~mask] == 0).all()
            assert (layer.quantised_weight()[~mask] == 0).all()
    else:
        assert training.student.blueprint.edits[0].kind == "channels"


@pytest.mark.parametrize("method", ["dml", "kd+at", "srd"])
def test_methods(train, method):
    training = train(1, method=method, teacher="resnet8", qat=4)
    assert fake_quantised(training.student)
    peers = {n: one for n, one in training.learner.networks.items() if n != "student"}
    assert bool(peers) == (method == "dml")
    assert not any(fake_quantised(peer) for peer in peers.values())


def test_compiled_passes_learn_the_same(train):
    plain, compiled = train(0, qat=4), train(0, qat=4)
    for training in (plain, compiled):
        take_steps(training.learner, 0)
    compiled.learner.forward = CompiledNetwork(compiled.student, "aot_eager")
    for training in (plain, compiled):
        training.learner.train()
        plan = training.stream.plan(0)
        training.losses = [training.learner.step(f, 0.0) for f in training.stream(0, plan[:3])]
    assert not compiling._FAILED
    torch.testing.assert_close(torch.stack(compiled.losses), torch.stack(plain.losses))
