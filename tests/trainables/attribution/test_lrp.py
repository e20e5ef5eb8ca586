"""LRP against every single contribution, against zennit, and against its own promise."""

from pathlib import Path

import pytest
import torch
from explicit import boxed, explained, layers_of, parts, shared
from lively import images, made
from torch import nn

from trainables.attribution import rules
from trainables.attribution.lrp import LRP, LRPConfig
from trainables.attribution.steps import Linear
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.matching import fit_weights

SMALL_VGG = "vgg11_x0.125"
TARGETS = torch.tensor([3, 0])


def explicit_lrp(config, dense):
    """The formulas of the module's docstring."""

    def message(number, x, values, weight, bias, relevance):
        z = values * weight
        if number == 0 and config.first == "z_box":
            return boxed(x, values, weight, relevance)
        if config.rule == "epsilon" or (config.rule == "composite" and number == dense):
            total = z.sum(2, keepdim=True) + bias
            return z / (total + config.epsilon * torch.where(total < 0, -1, 1)) * relevance
        up, down = parts(z)
        b_up, b_down = parts(bias) if config.biases else (0.0, 0.0)
        found = config.alpha * shared(up, relevance, b_up)
        if config.alpha > 1:
            against = down.sum(2, keepdim=True) + b_down
            alone = (against == 0).double()
            found = alone * shared(up, relevance, b_up) + (1 - alone) * found
            found = found - (config.alpha - 1) * shared(down, relevance, b_down)
        return found

    return message


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"first": "same"},
        {"rule": "alpha_beta"},
        {"rule": "alpha_beta", "alpha": 2.0},
        {"rule": "alpha_beta", "biases": True},
        {"alpha": 1.5, "biases": True, "first": "same"},
        {"rule": "epsilon"},
        {"rule": "epsilon", "epsilon": 0.25, "first": "same"},
    ],
    ids=str,
)
def test_every_contribution(settings):
    network, config = made(SMALL_VGG).eval(), LRPConfig(**settings)
    message = explicit_lrp(config, len(layers_of(network)) - 1)
    expected = explained(network, images(2), TARGETS, message, lambda logit: logit)
    found = LRP(config, network).attribute(images(2), TARGETS)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    scale = expected.abs().max()
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", ["alpha_beta", "epsilon"])
def test_as_zennit(rule):
    from zennit.composites import LayerMapComposite
    from zennit.rules import AlphaBeta, Epsilon, ZBox

    network, x = made(SMALL_VGG).eval(), images(2)
    modules: list[nn.Module] = []
    for kind, weight, bias in layers_of(network):
        if kind == "conv":
            layer: nn.Module = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        elif kind == "dense":
            modules.append(nn.Flatten())
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        else:
            layer = nn.ReLU() if kind == "relu" else nn.MaxPool2d(2)
        if weight is not None:
            layer.weight.data, layer.bias.data = weight, bias
        modules.append(layer)
    plain = nn.Sequential(*modules)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    chosen = AlphaBeta(1.0, 0.0, 1e-12) if rule == "alpha_beta" else Epsilon(1e-6)
    first = LayerMapComposite([(nn.Conv2d, ZBox(low.double(), high.double(), 1e-12))])
    others = LayerMapComposite([((nn.Conv2d, nn.Linear), chosen)])
    pixels = x.double().requires_grad_()
    with first.context(plain[:1]), others.context(plain[1:]):
        logits = plain(pixels)
        start = torch.zeros_like(logits)
        start[[0, 1], TARGETS] = logits[[0, 1], TARGETS].detach()
        (expected,) = torch.autograd.grad(logits, pixels, start)
    found = LRP(LRPConfig(rule=rule, biases=True), network).attribute(x, TARGETS)
    scale = expected.abs().max()
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=0, atol=1e-4)


def step(weight, bias):
    return Linear(
        name="one",
        sources=(1,),
        apply=nn.functional.linear,
        weight=torch.tensor([weight]),
        bias=torch.tensor([bias]),
    )


def test_by_hand():
    """z⁺ = 3 and z⁻ = -2, a bias of 1, relevance 4; then with no contribution against it."""
    one, x, relevance = step([3.0, -1.0], 1.0), torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0]])
    for passed, expected, absorbed in [
        (rules.alpha_beta(one, x, relevance, 1.0, False), [4.0, 0.0], 0.0),
        (rules.alpha_beta(one, x, relevance, 1.0, True), [3.0, 0.0], 1.0),
        (rules.alpha_beta(one, x, relevance, 2.0, False), [8.0, -4.0], 0.0),
        (rules.alpha_beta(one, x, relevance, 2.0, True), [6.0, -4.0], 2.0),
        (rules.epsilon(one, x, relevance, 1e-9), [6.0, -4.0], 2.0),
        (rules.epsilon(one, x, relevance, 2.0), [3.0, -2.0], 3.0),
        (rules.alpha_beta(one, -x, relevance, 1.0, False), [0.0, 4.0], 0.0),
        (rules.alpha_beta(step([3.0, 1.0], 0.0), x, relevance, 2.0, False), [2.4, 1.6], 0.0),
        (rules.alpha_beta(step([-3.0, -1.0], 9.0), x, relevance, 1.0, False), [0.0, 0.0], 4.0),
    ]:
        torch.testing.assert_close(passed.parts[0], torch.tensor([expected]))
        assert passed.absorbed.tolist() == pytest.approx([absorbed], abs=1e-6)


def test_what_is_left_of_zeros_is_nothing():
    """Of each image by its own sums: fast convolutions do not always make zeros of zeros."""
    totals = torch.tensor([[1.0, 1e-9, 0.0], [1e-3, 1e-9, 1e-9], [0.0, 0.0, 0.0]])
    expected = [[True, False, False], [True, True, True], [False, False, False]]
    assert rules.present(totals).tolist() == expected


def test_sums_by_hand():
    """2 + (-1) with relevance 3, and the same behind a bias; negative terms alone have all."""
    two, less, relevance = torch.tensor([[2.0]]), torch.tensor([[-1.0]]), torch.tensor([[3.0]])
    for passed, expected, absorbed in [
        (rules.alpha_beta_of([two, less], None, relevance, 1.0), [3.0, 0.0], 0.0),
        (rules.alpha_beta_of([two, less], None, relevance, 2.0), [6.0, -3.0], 0.0),
        (rules.alpha_beta_of([less, less], None, relevance, 1.0), [1.5, 1.5], 0.0),
        (rules.alpha_beta_of([two], two, relevance, 1.0), [1.5], 1.5),
        (rules.alpha_beta_of([less], two, relevance, 1.0), [0.0], 3.0),
        (rules.epsilon_of([two, less], None, relevance, 1e-9), [6.0, -3.0], 0.0),
        (rules.epsilon_of([two], less, relevance, 1e-9), [6.0], -3.0),
    ]:
        assert [part.item() for part in passed.parts] == pytest.approx(expected)
        assert passed.absorbed.tolist() == pytest.approx([absorbed], abs=1e-6)


NETWORKS = ("resnet8_zeropad", "resnet8-eca", "wrn_10_1", "mobilenetv2-minus13_x0.5", SMALL_VGG)


@pytest.mark.parametrize(
    "settings",
    [{}, {"biases": True}, {"alpha": 2.0, "first": "same"}, {"rule": "epsilon"}],
    ids=str,
)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_arrives_and_what_is_absorbed_add_up(name, settings):
    """At every layer, and so in the end; what biases absorb is counted where they do it."""
    seen = []

    def watch(step, relevance, passed):
        arrived = sum(rules.per_image(part) for part in passed.parts) + passed.absorbed
        size = sum(rules.per_image(part.abs()) for part in (relevance, *passed.parts)) + 1e-9
        seen.append(((arrived - rules.per_image(relevance)).abs() / size).max().item())

    explainer = LRP(LRPConfig(**settings), made(name).eval())
    found = explainer.relevance(images(2), TARGETS, watch)
    assert len(seen) > 10
    assert max(seen) < 1e-4
    total = rules.per_image(found.values) + found.absorbed
    torch.testing.assert_close(total, found.start, rtol=1e-3, atol=1e-4)
    assert (found.absorbed.abs() > 0).any()  # of the classifier's bias at least
    expected = explainer.expected_sum(images(2), TARGETS)
    torch.testing.assert_close(expected.double(), found.start - found.absorbed, rtol=1e-5, atol=0)


def test_a_trained_resnet(shared_data: Path):
    """Its sum is the logit within 1 %, without what the classifier's bias absorbs."""
    (file,) = shared_data.glob("teachers/resnet20-*.th")
    network = fit_weights("resnet20", read_checkpoint(str(file)), 10, (3, 32, 32)).network.eval()
    x = images(4)
    targets = network(x).logits.argmax(1)
    found = LRP(LRPConfig(), network).relevance(x, targets)
    assert (found.start > 1).all()
    torch.testing.assert_close(
        found.absorbed, network.classifier.bias[targets].double(), rtol=1e-3, atol=1e-3
    )
    total = rules.per_image(found.values) + network.classifier.bias[targets]
    torch.testing.assert_close(total, found.start, rtol=0.01, atol=0)
    with_biases = LRP(LRPConfig(biases=True), network).relevance(x, targets)
    assert (with_biases.absorbed / with_biases.start > 0.2).all()


def test_an_image_of_one_value_says_nothing():
    found = LRP(LRPConfig(), made("resnet8").eval()).relevance(
        torch.full((1, 3, 32, 32), 0.7), TARGETS[:1]
    )
    assert not found.values.any()
    torch.testing.assert_close(found.absorbed, found.start, rtol=1e-4, atol=0)
