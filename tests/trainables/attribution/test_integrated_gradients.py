"""Integrated gradients: captum's numbers, completeness, and nothing of other images."""

import copy
from functools import partial

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.attribution.folding import folded
from trainables.attribution.integrated_gradients import (
    FLOOR,
    IntegratedGradients,
    IntegratedGradientsConfig,
    baseline_image,
    completeness_errors,
    integrate,
    quadrature,
)
from trainables.attribution.map_settings import MapSettings
from trainables.errors import UserError
from trainables.models import Network, create_model
from trainables.models.outputs import Outputs

TARGETS = torch.tensor([3, 0, 7])
NETWORKS = ["resnet8", "vgg11_x0.125", "mobilenetv2_x0.25"]


def made(name: str) -> Network:
    """With statistics of their own, and logits that differ."""
    torch.manual_seed(0)
    network = create_model(name, 10, (3, 32, 32))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
            module.momentum = 1.0
    network.train()(images(16))
    network.classifier.weight.data *= 10
    return network.eval().requires_grad_(False)


def images(count: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return nn.functional.avg_pool2d(torch.randn(count, 3, 32, 32, generator=draw), 5, 1, 2) * 3


def explainer(network: Network, **settings: object) -> IntegratedGradients:
    normalisation = (0.5, 0.4, 0.3), (0.25, 0.2, 0.2)
    config = IntegratedGradientsConfig(**settings)  # type: ignore[arg-type]
    return IntegratedGradients(config, network, normalisation)


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_middle"])
@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_captums(name: str, method: str) -> None:
    """In float64, but for captum's weights, which are float32; in float32 where rounding does not move a deep network's
    ReLUs, which it does with random weights (captum's float32 is as far from its float64)."""
    single, pixels = made(name), images()
    expected = captums(copy.deepcopy(single).double(), pixels.double(), method)
    exact = explainer(copy.deepcopy(single).double(), steps=7, quadrature=method)
    assert (exact.attribute(pixels.double(), TARGETS) - expected).abs().max() < 1e-5
    assert expected.abs().max() > 0.01
    if name.startswith("mobilenet"):
        return
    found = explainer(single, steps=7, quadrature=method).attribute(pixels, TARGETS)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert (found - captums(single, pixels, method)).abs().max() < 1e-5


def captums(network: Network, pixels: Tensor, method: str) -> Tensor:
    theirs = captum.attr.IntegratedGradients(lambda rows: network(rows).logits)
    found: Tensor = theirs.attribute(pixels, target=TARGETS, n_steps=7, method=method)
    return found


@pytest.mark.parametrize("baseline", ["mean", "black", "white"])
def test_they_sum_to_what_the_image_adds(baseline: str) -> None:
    network, pixels = made("resnet8"), images()
    coarse, fine = (explainer(network, steps=n, baseline=baseline) for n in (5, 150))
    promised = fine.expected_sum(pixels, TARGETS)
    black = {"mean": (0.5, 0.4, 0.3), "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
    silent = (torch.tensor(black[baseline]) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor(
        [0.25, 0.2, 0.2]
    )
    said = network(pixels).logits - network(silent.view(1, 3, 1, 1).expand(1, 3, 32, 32)).logits
    assert torch.allclose(promised, said[torch.arange(3), TARGETS], atol=1e-4)
    missed = [
        float(completeness_errors(one.attribute(pixels, TARGETS).sum((1, 2, 3)), promised).mean())
        for one in (coarse, fine)
    ]
    assert missed[1] < 0.02
    assert missed[1] < missed[0]


def test_a_linear_network_is_exact_at_one_step() -> None:
    class Linear(Network):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(3 * 32 * 32, 10)

        def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
            flat = images.flatten(1)
            return Outputs(self.classifier(flat), flat, ())

    torch.manual_seed(0)
    network, pixels = Linear(), images()
    found = explainer(network, steps=1).attribute(pixels, TARGETS)
    assert torch.allclose(found, pixels * network.classifier.weight[TARGETS].view(3, 3, 32, 32))


@pytest.mark.parametrize("rows", [1, 3, 5, 64])
def test_how_many_points_are_a_batch_changes_nothing(rows: int) -> None:
    """Images stay apart, however their points are put together."""
    network, pixels, points = made("resnet8"), images(), quadrature("gausslegendre", 5)
    shares = nn.functional.one_hot(TARGETS, 10).float()
    of = partial(integrate, network, baseline=torch.zeros(()), points=points)
    found = of(pixels, shares=shares, rows=rows)
    for place in range(3):
        alone = of(pixels[place : place + 1], shares=shares[place : place + 1], rows=5)
        assert (alone[0] - found[place]).abs().max() < 1e-5


def test_several_classes_are_summed() -> None:
    network, pixels, points = made("resnet8"), images(), quadrature("gausslegendre", 3)
    of = partial(integrate, network, pixels, torch.zeros(()), points=points)
    one, other = (nn.functional.one_hot(TARGETS.roll(by), 10).float() for by in (0, 1))
    assert torch.allclose(of(one + other), of(one) + of(other), atol=1e-5)


def test_quadratures_integrate() -> None:
    for name, exact in (("gausslegendre", 1e-6), ("riemann_middle", 2e-3)):
        points, weights = quadrature(name, 20)
        assert float(weights.sum()) == pytest.approx(1)
        assert float((weights * points**5).sum()) == pytest.approx(1 / 6, abs=exact)


def test_small_differences_do_not_decide_a_mean() -> None:
    sums, differences = torch.tensor([2.2, -1.0, 0.01, 0.0]), torch.tensor([2.0, -2.0, 0.0, 0.0])
    expected = np.array([0.1, 0.5, 0.01 / FLOOR, 0.0])
    assert np.allclose(completeness_errors(sums, differences), expected)


def test_folding_changes_no_logit_and_no_network() -> None:
    for name in NETWORKS:
        network, pixels = made(name).train(), images()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        copied = folded(network, pixels[:1])
        assert network.training
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert not [m for m in copied.modules() if isinstance(m, nn.BatchNorm2d)]
        expected = network.eval()(pixels).logits
        assert torch.allclose(copied(pixels).logits, expected, atol=1e-4)
        assert expected.std() > 0.1


def test_what_is_read_before_batchnorm_is_not_folded() -> None:
    class Beside(Network):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.classifier = nn.Linear(4, 10)

        def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
            found = self.conv(images)
            embedding = (self.bn(found) + found.relu()).mean((2, 3))
            return Outputs(self.classifier(embedding), embedding, ())

    torch.manual_seed(0)
    network = Beside()
    network.bn.running_mean.fill_(1.0)
    network.bn.running_var.fill_(4.0)
    copied = folded(network, images(1))
    assert torch.equal(copied(images()).logits, network.eval()(images()).logits)


def test_baselines() -> None:
    mean, std = (0.5, 0.25), (0.5, 0.25)
    expected = {"mean": [0.0, 0.0], "black": [-1.0, -1.0], "white": [1.0, 3.0]}
    for name, values in expected.items():
        assert baseline_image(name, mean, std).flatten().tolist() == values


def test_black_needs_to_be_known() -> None:
    config = IntegratedGradientsConfig(baseline="black")
    with pytest.raises(UserError, match=r"integrated_gradients.baseline: expected mean, got 'bl"):
        IntegratedGradients(config, made("resnet8"))


def test_no_host_waits(no_waiting: type) -> None:
    network, pixels, points = made("resnet8"), images(), quadrature("gausslegendre", 3)
    shares = nn.functional.one_hot(TARGETS, 10).float()
    with no_waiting():
        integrate(network, pixels, torch.zeros(()), shares, points)


def test_a_network_without_gradients_is_refused() -> None:
    class Stepped(Network):
        def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
            logits = images.detach().flatten(1)[:, :10]
            return Outputs(logits, logits, ())

    with pytest.raises(UserError, match=r"integrated_gradients: .* no gradient"):
        explainer(Stepped()).check(images(1))


def test_settings_are_those_of_any_config() -> None:
    config = IntegratedGradientsConfig(steps=7, baseline="black")
    assert MapSettings.of(config) == MapSettings(steps=7, baseline="black")
    with pytest.raises(ValueError, match="target"):
        MapSettings(target="best")
