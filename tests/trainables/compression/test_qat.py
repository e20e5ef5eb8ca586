"""Quantisation-aware training: which layers, with which steps, beside which other steps."""

import logging
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from trainables import once
from trainables.compression.chain import Chain, check_steps
from trainables.compression.measure import count_params, size_bytes
from trainables.compression.qat import QAT
from trainables.compression.registry import resolve_chain
from trainables.compression.step import Scene, Step
from trainables.engine.precision import computing
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Channels
from trainables.models.fake_quantised import (
    fake_quantise,
    fake_quantised,
)
from trainables.models.features import with_features

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


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


def test_a_vgg_learns_its_steps_too():
    """A network whose linear layer reads every position, behind dropout and maxima."""
    shape = (3, 64, 64)
    torch.manual_seed(1)
    network = build(Blueprint("vgg11_x0.125"), 5, shape)
    images, target = torch.randn(16, *shape), torch.arange(16) % 5
    scene = Scene(network, lambda count: iter([(images, target)]), torch.Generator(), shape, CPU)
    with torch.no_grad():
        for change in QAT(QAT.Config(amount=4)).at(0.0, scene):
            edit(network, change, shape)
    layers = fake_quantised(network)
    wanted = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(layers) == sorted(wanted)
    assert len(wanted) == 9
    network.train()
    logits = network(images).logits
    nn.functional.cross_entropy(logits, target).backward()
    steps = [value for one in layers.values() for value in (one.weight_step, one.input_step)]
    assert all(step.grad is not None and step.grad.isfinite().all() for step in steps)
    assert any(step.grad.abs().sum() > 0 for step in steps)


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


def test_channels_are_cut_before():
    network = quantised()
    with pytest.raises(
        UserError, match=r"'layer1\.0\.conv1' is fake-quantised; channels are cut be"
    ):
        edit(network, Channels.kept({"layer1.0.conv1": [0, 1]}), SHAPE)


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
