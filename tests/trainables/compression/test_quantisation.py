"""Alphabets and their roundings, GPFQ against its definition, and the steps that use them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables.compression.alphabets import (
    Alphabet,
    largest_character,
    layer_alphabet,
    thresholded,
)
from trainables.compression.chain import Chain, check_steps
from trainables.compression.gpfq import GPFQ, gpfq
from trainables.compression.lockstep import changed_weights, layers, patches
from trainables.compression.msq import MSQ
from trainables.compression.registry import resolve_chain
from trainables.compression.rtn import RTN
from trainables.compression.sparsify import Sparsify
from trainables.compression.step import Scene
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.masks import masks

SHAPE = (3, 16, 16)
STEPS = [GPFQ, MSQ, RTN]


def column_loop(weights, inputs, quantised_inputs, rounding):
    """GPFQ as it is defined, one column after the other."""
    state = inputs.new_zeros(len(inputs), len(weights))
    found = torch.empty_like(weights)
    for t in range(weights.shape[1]):
        x, seen = inputs[:, t], quantised_inputs[:, t]
        state = state + torch.outer(x, weights[:, t])
        norm = seen.square().sum()
        wanted = seen @ state / norm if norm > 0 else torch.zeros_like(weights[:, t])
        found[:, t] = rounding(wanted)
        state = state - torch.outer(seen, found[:, t])
    return found


@pytest.fixture
def drawn():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("rows", [40, 300], ids=["fewer images than columns", "more"])
def test_gpfq_is_the_column_loop(drawn, rows):
    """Over several blocks, with a dead input, for two groups at once."""
    weights = torch.randn(2, 7, 100, generator=drawn, dtype=torch.float64)
    inputs = torch.randn(2, rows, 100, generator=drawn, dtype=torch.float64).relu()
    seen = inputs + 0.1 * torch.randn(2, rows, 100, generator=drawn, dtype=torch.float64)
    seen[:, :, 41] = 0
    alphabet = layer_alphabet(weights.flatten(0, 1), 8)

    found = gpfq(weights, inputs, seen, alphabet.nearest)

    for group in range(2):
        wanted = column_loop(weights[group], inputs[group], seen[group], alphabet.nearest)
        torch.testing.assert_close(found[group], wanted, rtol=0, atol=1e-12)
    assert (found[:, :, 41] == 0).all()


def test_gpfq_by_hand():
    """Two equal columns of 0.4 with characters -1, 0, 1: the second makes up for the first."""
    alphabet = Alphabet(step=torch.ones(1), largest=1)
    weights, inputs = torch.tensor([[[0.4, 0.4]]]), torch.ones(1, 3, 2)
    assert gpfq(weights, inputs, inputs, alphabet.nearest).tolist() == [[[0.0, 1.0]]]


def test_alphabet_of_a_layer():
    """R is the mean of the rows' largest weights: (1 + 3) / 2; C R / K = 1.5 * 2 / 4."""
    weights = torch.tensor([[0.5, -1.0], [3.0, 0.0]])
    alphabet = layer_alphabet(weights, largest_character(3, packed=False), scalar=1.5)
    assert alphabet.step.tolist() == [0.75]
    assert (alphabet.size, alphabet.bits) == (9, 4)
    own = layer_alphabet(weights, largest_character(3, packed=True), scalar=1.5, per_channel=True)
    assert own.step.tolist() == [0.5, 1.5]
    assert (own.size, own.bits) == (7, 3)


def test_percentile_of_the_radius():
    weights = torch.arange(11.0)[None]
    assert layer_alphabet(weights, 1, scalar=1.0, percentile=0.5).step.tolist() == [5.0]


def test_weights_that_are_all_zero_stay_zero():
    alphabet = layer_alphabet(torch.zeros(2, 3), 8, per_channel=True)
    assert alphabet.nearest(torch.zeros(3, 2)).eq(0).all()


@pytest.mark.parametrize(
    ("threshold", "values"),
    [
        ("none", [0.0, 1.0, -1.0, 2.0, 2.0]),
        ("soft", [0.0, 0.0, -1.0, 1.0, 2.0]),
        # Step (2 - 0.5) / 2 = 0.75; beyond 0.5 the characters are 0.5, 1.25 and 2.
        ("hard", [0.0, 0.5, -1.25, 1.25, 2.0]),
    ],
)
def test_roundings_by_hand(threshold, values):
    alphabet = thresholded(Alphabet(step=torch.ones(1), largest=2), threshold, 0.5)
    given = torch.tensor([0.4, 0.6, -1.4, 1.5, 9.0])
    given[2] = -1.4 if threshold != "soft" else -1.2
    given[3] = 1.5 if threshold != "soft" else 1.9
    assert alphabet.nearest(given).tolist() == values


def test_stochastic_rounding_has_the_value_as_its_mean(drawn):
    alphabet = Alphabet(step=torch.tensor([0.5]), largest=4)
    for value in (0.6, -1.1, 0.0):
        found = alphabet.stochastic(drawn)(torch.full((20_000,), value))
        assert found.mean().item() == pytest.approx(value, abs=0.01)
        assert len(found.unique()) == (1 if value == 0 else 2)


CONVOLUTIONS = {
    "stride and padding": nn.Conv2d(4, 8, 3, 2, 1),
    "dilation and groups": nn.Conv2d(6, 6, 3, 1, 2, dilation=2, groups=3),
    "depthwise, one axis": nn.Conv2d(4, 4, (1, 3), (2, 1), (0, 1), groups=4),
    "same padding, reflected": nn.Conv2d(4, 5, 3, padding="same", padding_mode="reflect"),
    "1x1 stride 2": nn.Conv2d(4, 6, 1, 2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patches_times_weights_is_the_convolution(drawn, name):
    layer = CONVOLUTIONS[name]
    inputs = torch.randn(2, layer.in_channels, 9, 7, generator=drawn)
    found = patches(layer, inputs, 1.0, drawn)
    rows = layer.weight.view(layer.groups, -1, found.shape[2])
    wanted = F.conv2d(  # without the bias
        F.pad(
            inputs,
            layer._reversed_padding_repeated_twice,
            mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode,
        ),
        layer.weight,
        None,
        layer.stride,
        0,
        layer.dilation,
        layer.groups,
    )
    given = (found @ rows.transpose(1, 2)).view(layer.groups, 2, -1, rows.shape[1])
    torch.testing.assert_close(given.permute(1, 0, 3, 2).reshape(wanted.shape), wanted)


def test_a_share_of_the_patches(drawn):
    layer = nn.Conv2d(2, 2, 3, padding=1)
    found = patches(layer, torch.randn(3, 2, 8, 8, generator=drawn), 0.25, drawn)
    assert found.shape == (1, 3 * 16, 18)


def network_with_statistics(model="resnet8", classes=10):
    """A network whose BatchNorm does something."""
    torch.manual_seed(1)
    network = build(Blueprint(model), classes, SHAPE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def scene(network, images, batch):
    target = torch.zeros(len(images), dtype=torch.int64)

    def batches(count):
        return zip(images[:count].split(batch), target[:count].split(batch), strict=True)

    return Scene(network, batches, torch.Generator().manual_seed(3), SHAPE, torch.device("cpu"))


def test_lockstep_sees_both_networks_and_leaves_no_trace(drawn):
    """Doubling every weight: what a layer sees behind changed ones is what the changed network
    computes there."""
    network = network_with_statistics()
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(4, *SHAPE, generator=drawn)
    seen = {}

    def change(name, layer, inputs, behind):
        seen[name] = (inputs, behind)
        return layer.weight * 2

    weights = changed_weights(network, images, change)

    assert list(seen) == list(weights)
    assert set(weights) == set(layers(network))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any("forward" in module.__dict__ for module in network.modules())
    changed = copy.deepcopy(network)
    changed.load_state_dict(before | {f"{name}.weight": w for name, w in weights.items()})
    for side, one in enumerate((network, changed)):
        with torch.no_grad():
            torch.testing.assert_close(seen["classifier"][side], one(images).embedding)


def test_an_error_in_lockstep_leaves_no_trace():
    network = network_with_statistics()
    with pytest.raises(ZeroDivisionError):
        changed_weights(network, torch.zeros(1, *SHAPE), lambda *_: 1 / 0)
    assert not any("forward" in module.__dict__ for module in network.modules())


@pytest.mark.parametrize("model", ["resnet8", "mobilenetv2_x0.1", "wrn_10_1"])
@pytest.mark.parametrize("step", STEPS)
def test_steps_quantise_every_layer_and_nothing_else(drawn, step, model):
    network = network_with_statistics(model)
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(8, *SHAPE, generator=drawn)

    (bits,) = step(step.Config(amount=3)).at(1.0, scene(network, images, 8))

    weights = {f"{name}.weight" for name in layers(network)}
    assert {f"{name}.weight" for name, _ in bits.weights} == weights
    levels = 7 if step is RTN else 9
    assert {count for _, count in bits.weights} == ({3} if step is RTN else {4})
    for key, value in network.state_dict().items():
        if key in weights:
            one = value[0] if step is RTN else value
            assert len(one.unique()) <= levels
            assert not torch.equal(value, before[key])
        else:  # BatchNorm's statistics, biases
            assert torch.equal(value, before[key])


@pytest.mark.parametrize("step", STEPS)
def test_masked_weights_stay_zero(drawn, step):
    """GPFQ would give them the errors of the columns in front."""
    images = torch.randn(16, *SHAPE, generator=drawn)
    network = network_with_statistics()
    sparse = Sparsify(Sparsify.Config(amount=0.6, begin=0, end=0))
    (change,) = sparse.at(0.0, scene(network, images, 16))
    edit(network, change, SHAPE)
    step(step.Config(amount=4)).at(1.0, scene(network, images, 16))
    assert masks(network)
    for name, mask in masks(network).items():
        assert (network.get_parameter(f"{name}.weight")[~mask] == 0).all()


@pytest.mark.parametrize("last", STEPS)
def test_nothing_follows_a_quantiser(last):
    chain = Chain("gpfq+sparsify", resolve_chain("gpfq+sparsify", {}))
    with pytest.raises(UserError, match="'gpfq' has to be the last step"):
        check_steps(chain.steps, network_with_statistics(), SHAPE)
    name = last.__name__.lower()
    allowed = Chain(f"sparsify+{name}", resolve_chain(f"sparsify+{name}", {}))
    check_steps(allowed.steps, network_with_statistics(), SHAPE)


def test_gpfq_stays_nearer_to_the_network_than_msq(drawn):
    """On images that it did not look at."""
    images = torch.randn(192, *SHAPE, generator=drawn)
    errors = {}
    for step in (GPFQ, MSQ):
        network = network_with_statistics()
        with torch.no_grad():
            wanted = network(images[128:]).logits
            step(step.Config(amount=3)).at(1.0, scene(network, images[:128], 64))
            errors[step] = (network(images[128:]).logits - wanted).norm().item()
    assert errors[GPFQ] < 0.7 * errors[MSQ]


@pytest.mark.parametrize(
    "settings",
    [{"rounding": "stochastic"}, {"threshold": "soft"}, {"threshold": "hard"}, {"packed": True}],
)
def test_variants_of_gpfq(drawn, settings):
    images = torch.randn(32, *SHAPE, generator=drawn)
    zeros = []
    for chosen in ({}, settings):
        network = network_with_statistics()
        (bits,) = GPFQ(GPFQ.Config(amount=3, **chosen)).at(1.0, scene(network, images, 32))
        kept = [layer.weight for layer in layers(network).values()]
        zeros.append(sum((weight == 0).sum().item() for weight in kept))
        if "packed" in chosen:
            assert {count for _, count in bits.weights} == {3}
    if "threshold" in settings:
        assert zeros[1] > 1.2 * zeros[0]
