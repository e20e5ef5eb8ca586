"""What every step of a chain does, other packages' as well."""

import copy
import io

import pytest
import torch

from trainables.compression.measure import count_macs, count_params, size_bytes
from trainables.compression.registry import PARTS, config_of, is_choice, part_class, resolve_chain
from trainables.compression.step import COSTS, Scene
from trainables.engine.precision import computing
from trainables.files import open_folder
from trainables.measurement.costs import costs_of, peak_of
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.weights import Card, read_network, save_network

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


def taken(step, network, number, moment):
    """A network behind a moment of a step."""
    images = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(1))
    target = torch.arange(32) % CLASSES
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


def finished(name, network=None):
    """The network behind every moment of a step at its defaults."""
    network, step = trained() if network is None else network, step_of(name)
    for number, moment in enumerate(step.moments):
        network = taken(step, network, number, moment)
    return network


def rebuilt(network):
    """A network as whoever has its blueprint and its weights builds it again."""
    again = build(Blueprint.from_json(network.blueprint.to_json()), CLASSES, SHAPE).eval()
    again.load_state_dict(copy.deepcopy(network.state_dict()))
    return again


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
def test_costs_change_no_further_than_is_said_before(name):
    """By what is said a student is kept from its training."""
    before, after = (
        costs_of(network, SHAPE) | {"activation_bytes": peak_of(network, SHAPE)}
        for network in (trained(), finished(name))
    )
    said = step_of(name).spans()
    assert said.keys() <= set(COSTS)
    for cost in before.keys() & set(COSTS):
        least, greatest = said.get(cost, (1.0, 1.0))
        assert least <= after[cost] / before[cost] <= greatest, cost


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
    again = rebuilt(after)
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


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_read_from_its_file(name, tmp_path):
    after, folder = finished(name), open_folder(tmp_path)
    card = Card(
        name="s",
        model=after.blueprint.model,
        edits=after.blueprint.edits,
        dataset="d",
        data_fingerprint="f",
        classes=CLASSES,
        image_shape=SHAPE,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        test_acc=None,
        params=count_params(after),
        macs=count_macs(after, SHAPE),
        origin="",
    )
    save_network(folder, "s.safetensors", after, card)
    read, again = read_network(folder, "s.safetensors")
    assert read.blueprint == after.blueprint == again.blueprint
    images = torch.randn(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(again.eval()(images).logits, after(images).logits)


@pytest.mark.parametrize("name", NAMES)
def test_another_instance_goes_on_with_the_state(name):
    """As behind an interruption before every moment: the network is built again, too."""
    network, before = trained(), step_of(name)
    for number, moment in enumerate(before.moments):
        buffer = io.BytesIO()
        torch.save(before.state_dict(), buffer)
        buffer.seek(0)
        step = step_of(name)
        step.load_state_dict(torch.load(buffer, weights_only=True))
        network, before = taken(step, rebuilt(network), number, moment), step
    wanted = finished(name)
    assert network.blueprint == wanted.blueprint
    assert all(torch.equal(network.state_dict()[k], w) for k, w in wanted.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_moments_before_the_end_leave_is_trained(name, precision):
    network, step = trained(), step_of(name)
    for number, moment in enumerate(step.moments):
        if moment < 1:
            network = taken(step, network, number, moment)
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    images = torch.randn(8, *SHAPE).to(memory_format=torch.channels_last)
    with computing(precision, torch.device("cpu")):
        logits = network(images).logits
    torch.nn.functional.cross_entropy(logits.float(), torch.arange(8) % CLASSES).backward()
    assert [k for k, weight in network.named_parameters() if weight.grad is None] == []
    optimizer.step()
    with torch.no_grad():
        step.after_update(network)
    assert all(weight.isfinite().all() for weight in network.parameters())
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
