"""Parameters, MACs and bytes of built networks."""

import copy

import torch
from torch import nn

from trainables.compression.measure import count_macs, count_params, size_bytes
from trainables.models import create_model

CIFAR = (3, 32, 32)


def test_parameters_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(5, 2))
    assert count_params(model) == 3 * 4 * 9 + 2 * 4 + 5 * 2 + 2
    model[2].requires_grad_(False)
    assert count_params(model) == 3 * 4 * 9 + 2 * 4


def test_macs_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    assert count_macs(model, CIFAR) == 16 * 16 * 8 * 27 + 16 * 16 * 8 * 9 + 8 * 10


def test_macs_along_the_channels() -> None:
    """The 1-D convolution of channel attention; its pooling and product are not counted."""
    plain, attentive = (create_model(name, 10, CIFAR) for name in ("resnet8", "resnet8-eca"))
    added = 3 * (16 + 32 + 64)
    assert count_macs(attentive, CIFAR) - count_macs(plain, CIFAR) == added
    assert count_params(attentive) - count_params(plain) == 3 * 3


def test_bytes_follow_the_dtype() -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10))
    assert size_bytes(model) == 4 * (100 + 4 * 10) + 8  # the counter of batches is an int64
    assert size_bytes(model[0].half()) == 200
    model[0].register_buffer("codes", torch.zeros(100, dtype=torch.int8))
    del model[0].weight
    assert size_bytes(model[0]) == 100


def test_measuring_leaves_the_network_as_it_was() -> None:
    model = create_model("resnet8", 10, CIFAR).train()
    model.get_submodule("layer1").eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    assert count_macs(model, CIFAR) > 0
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_macs_of_a_network_without_weights() -> None:
    with torch.device("meta"):
        model = create_model("resnet8", 10, CIFAR)
    assert count_macs(model, CIFAR) == count_macs(create_model("resnet8", 10, CIFAR), CIFAR)
