"""Parameters, MACs, bytes and latency of built networks."""

import copy
import time

import pytest
import torch
from torch import nn

from trainables.compression.measure import (
    count_macs,
    count_params,
    latency_ms,
    latency_of,
    measure,
    size_bytes,
)
from trainables.models import create_model
from trainables.models.blueprint import Blueprint
from trainables.models.edits import Channels
from trainables.worker import WORKER

CIFAR = (3, 32, 32)


class Sleeper(nn.Module):
    """A network whose passes take a known time; the first and every ``hiccup``-th take 100 ms."""

    def __init__(self, milliseconds: float, slow_passes: int = 0, hiccup: int = 10**9) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.milliseconds, self.slow_passes, self.hiccup = milliseconds, slow_passes, hiccup
        self.passes = 0
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        self.modes.add((self.training, torch.is_inference_mode_enabled()))
        slow = self.passes <= self.slow_passes or self.passes % self.hiccup == 0
        time.sleep((100 if slow else self.milliseconds) / 1000)
        return images


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
    measure(model, CIFAR, "cpu")
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_measurement_without_and_with_a_device() -> None:
    model = create_model("resnet8", 10, CIFAR)
    costs = measure(model, CIFAR)
    assert (costs.params, costs.latency_ms) == (78_042, None)
    assert costs.macs == count_macs(model, CIFAR)
    assert costs.size_bytes == size_bytes(model)
    timed = measure(model, CIFAR, "cpu").latency_ms
    assert timed is not None
    assert 0 < timed < 1000


def test_macs_of_a_network_without_weights() -> None:
    with torch.device("meta"):
        model = create_model("resnet8", 10, CIFAR)
    assert count_macs(model, CIFAR) == count_macs(create_model("resnet8", 10, CIFAR), CIFAR)


def test_latency_is_a_median_that_start_up_does_not_touch() -> None:
    """Start-up was charged to the first network timed in arXiv 2503.13008: 140 ms for 16."""
    model = Sleeper(milliseconds=4, slow_passes=5)
    assert latency_ms(model, CIFAR) == pytest.approx(4, rel=0.75)
    assert model.modes == {(False, True)}
    assert model.training
    # 5 to warm up, then about 0.3 s.
    assert 5 + 20 <= model.passes <= 5 + 80


def test_latency_ignores_interruptions() -> None:
    assert latency_ms(Sleeper(milliseconds=4, hiccup=7), CIFAR) == pytest.approx(4, rel=0.75)


def test_slow_networks_are_still_timed_twenty_times() -> None:
    model = Sleeper(milliseconds=30)
    latency_ms(model, CIFAR)
    assert model.passes == 25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_latency_elsewhere_leaves_the_model_where_it_is() -> None:
    model = create_model("resnet8", 10, CIFAR)
    assert 0 < latency_ms(model, CIFAR, "cuda") < 1000
    assert next(model.parameters()).device.type == "cpu"


def test_what_is_timed_is_the_built_network() -> None:
    whole, layers = Blueprint("resnet20_x4"), [f"layer{n}.{i}" for n in (1, 2, 3) for i in range(3)]
    cut = {f"{layer}.{part}": [0] for layer in layers for part in ("conv1", "bn1")}
    read = {f"{layer}.conv2": [0] for layer in layers}  # an order of magnitude less to do
    narrow = Blueprint("resnet20_x4", (Channels.kept(cut, read),))
    latency_of.cache_clear()
    times = [latency_of(blueprint, 10, (3, 64, 64), "cpu") for blueprint in (whole, narrow, whole)]
    assert times[0] == times[2]
    assert times[1] < times[0]
    kept = {one.what: one.entries for one in WORKER.held()}
    assert kept["latencies"] == 2
