"""What quantisers take from images: nothing else changes, and batches decide nothing."""

import copy

import pytest
import torch
from torch import nn

from trainables.compression.calibration import inputs_of, re_estimate_statistics
from trainables.compression.registry import config_of, part_class, resolve_chain
from trainables.compression.step import Scene
from trainables.config import TrialConfig
from trainables.experiment import config_key
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.fake_quantised import CLASSES

SHAPE = (3, 8, 8)
QUANTISERS = ["gpfq", "msq", "rtn", "qat"]
DROPOUT = "mobilenetv2_x0.1"
"""A network that drops a fifth of its embedding in training."""


def network_of(model="resnet8"):
    """A network whose BatchNorm does something."""
    torch.manual_seed(1)
    network = build(Blueprint(model), 10, SHAPE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(256, *SHAPE, generator=torch.Generator().manual_seed(0))


def scene(network, images, batch):
    target = torch.zeros(len(images), dtype=torch.int64)

    def batches(count):
        return zip(images[:count].split(batch), target[:count].split(batch), strict=True)

    return Scene(network, batches, torch.Generator().manual_seed(3), SHAPE, torch.device("cpu"))


@torch.no_grad()
def quantised(name, network, images, batch=64, **settings):
    """A copy of the network behind a quantiser."""
    network = copy.deepcopy(network)
    step = part_class(name)(config_of(name, resolve_chain(name, settings)))
    for moment in step.moments:
        for change in step.at(moment, scene(network, images, batch)):
            edit(network, change, SHAPE)
    return network


@pytest.mark.parametrize("name", QUANTISERS)
def test_calibration_leaves_statistics_modes_and_random_numbers(name, images):
    network = network_of(DROPOUT)
    modes = {name: module.training for name, module in network.named_modules()}
    drawn = torch.random.get_rng_state()
    after = quantised(name, network, images[:64])
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert {name: module.training for name, module in after.named_modules()} == modes
    buffers = dict(after.named_buffers())
    for key, values in network.named_buffers():
        assert torch.equal(buffers[key], values), key
    for key, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout):
            assert repr(after.get_submodule(key)) == repr(module)
    hooks = [m for m in after.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert hooks == []


@pytest.mark.parametrize("statistics", [0, 256], ids=["", "statistics"])
@pytest.mark.parametrize("name", QUANTISERS)
def test_batches_of_any_size_give_equal_networks(name, statistics, images):
    network = network_of()
    settings = {f"{name}.bn_images": statistics}
    one, many = (quantised(name, network, images, batch, **settings) for batch in (1, 128))
    assert one.blueprint == many.blueprint
    other = many.state_dict()
    for key, values in one.state_dict().items():
        assert torch.equal(values, other[key]), key
    moved = any(
        not torch.equal(one.state_dict()[k], values) for k, values in network.named_buffers()
    )
    assert moved == bool(statistics)


@pytest.mark.parametrize("name", QUANTISERS)
def test_statistics_are_those_that_a_quantised_network_sees(name, images):
    """In training mode each BatchNorm sees the same in a batch of these images, but for the bias
    of a variance, 1 of 1,024 values at most."""
    after = quantised(name, network_of(), images, **{f"{name}.bn_images": 256})
    training = copy.deepcopy(after).train()
    for module in training.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        training(images)
    for key, values in training.named_buffers():
        if "running" in key:
            found = dict(after.named_buffers())[key]
            torch.testing.assert_close(found, values, rtol=0.01, atol=0.01)


def test_statistics_of_one_value_are_numbers():
    network = network_of()
    re_estimate_statistics(scene(network, torch.randn(1, *SHAPE)[:, :, :1, :1], 1), 1)
    assert all(values.isfinite().all() for values in network.buffers())


def test_inputs_by_hand():
    """Of a layer that runs twice: |-1|, |2|, and twice as much."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(2))
    found = inputs_of(nn.Sequential(layer, layer), torch.tensor([[-1.0, 2.0]]), CLASSES)
    assert list(found) == ["0"]
    assert found["0"].mean.item() == (1 + 2 + 2 + 4) / 4
    assert found["0"].least.item() == -2


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"gpfq": 4}, "11acb637bbb55970"),
        ({"rtn": 3}, "a449068c654ed5e0"),
        ({"msq": 5, "msq.scalar": 1.16}, "669bce8cf4d972ac"),
    ],
)
def test_trials_keep_the_keys_that_they_had_without_the_setting(settings, key):
    config, name = TrialConfig.from_mapping({"student": "resnet8"} | settings), next(iter(settings))
    facts = {"student": "resnet8", "data_fingerprint": "d", "teacher_fingerprint": None}
    assert config_key(config, **facts) == key
    other = config.replace(**{f"{name}.bn_images": 256})
    assert config_key(other, **facts) != key
