"""What every step of a chain does, other packages' as well."""

import copy

import pytest
import torch

from trainables.compression.measure import count_macs, count_params, size_bytes
from trainables.compression.registry import PARTS, config_of, is_choice, part_class, resolve_chain
from trainables.compression.step import Scene
from trainables.models.blueprint import Blueprint, build, edit

SHAPE, CLASSES = (3, 16, 16), 5
NAMES = [name for name in PARTS if not is_choice(name)]


def step_of(name):
    return part_class(name)(config_of(name, resolve_chain(name, {})))


def trained():
    torch.manual_seed(0)
    network = build(Blueprint("resnet8"), CLASSES, SHAPE)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, *SHAPE))  # statistics of BatchNorm
    return network.eval()


def finished(name, network=None):
    """The network behind every moment of a step at its defaults."""
    network = trained() if network is None else network
    images = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(1))
    target = torch.arange(32) % CLASSES
    step = step_of(name)
    for number, moment in enumerate(step.moments):
        scene = Scene(
            network.eval(),
            lambda count: iter([(images[:count], target[:count])]),
            torch.Generator().manual_seed(number),
            SHAPE,
            torch.device("cpu"),
        )
        with torch.no_grad():
            for change in step.at(moment, scene):
                edit(network, change, SHAPE)
            step.after_update(network)
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_documented_and_their_defaults_allowed(name):
    settings = resolve_chain(name, {})
    assert settings
    assert PARTS.title(name)


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_shares_of_the_training(name):
    moments = list(step_of(name).moments)
    assert moments
    assert all(0 <= moment <= 1 for moment in moments)
    assert moments == sorted(moments)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_is_judged_without_memory(name):
    with torch.device("meta"):
        network = build(Blueprint("resnet8"), CLASSES, SHAPE)
    step_of(name).check(network, SHAPE)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_changes_and_says_numbers_and_every_feature(name):
    before, after = trained(), finished(name)
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        given, found = before(images), after(images)
    assert not torch.equal(given.logits, found.logits)
    assert found.logits.shape == given.logits.shape
    assert found.logits.isfinite().all()
    assert len(found.stages) == len(given.stages)
    assert len(found.shortcuts) == len(given.shortcuts)


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_networks(name):
    one, other = finished(name), finished(name)
    assert one.blueprint == other.blueprint
    assert all(torch.equal(one.state_dict()[key], w) for key, w in other.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_built_again_from_its_blueprint(name):
    after = finished(name)
    again = build(Blueprint.from_json(after.blueprint.to_json()), CLASSES, SHAPE).eval()
    again.load_state_dict(copy.deepcopy(after.state_dict()))
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(again(images).logits, after(images).logits)
    for count in (count_params, size_bytes, lambda network: count_macs(network, SHAPE)):
        assert count(again) == count(after)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_stay_unless_they_or_their_channels_go(name):
    before, after = trained().state_dict(), finished(name).state_dict()
    for key, values in before.items():
        if "running" in key and key in after and after[key].shape == values.shape:
            assert torch.equal(after[key], values)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_networks_are_changed_as_others(name):
    frozen = finished(name, trained().requires_grad_(False))
    assert frozen.blueprint == finished(name).blueprint
