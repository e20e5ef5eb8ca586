"""What every explainer promises, other packages' as well, on every kind of network.

An explainer either explains a network as `Explainer` says, or refuses it by name, in one line.
Which of ours refuses what is written down here; one of another package may refuse any network.
"""

import contextlib
import functools
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from lively import SHAPE, assert_as_it_was, images, lively, made, state_of
from torch import nn

from trainables.attribution.explaining import as_explained, check_explainers, explain
from trainables.attribution.registry import EXPLAINERS, explainer_settings, resolve_explainers
from trainables.errors import UserError
from trainables.models.fake_quantised import FakeQuantised, FakeQuantisedLayer, Widths
from trainables.models.grid import Grid
from trainables.models.int8 import Int8, Quantised
from trainables.models.outputs import Network, Outputs

OURS = set(EXPLAINERS._own)
NAMES = list(EXPLAINERS)

ZOO = [
    "resnet8",
    "resnet8_zeropad",
    "resnet8-eca",
    "resnet50_x0.0625",
    "resnet18-eca_parallel_x0.125",
    "wrn_10_0.5",
    "mobilenetv2_x0.25",
    "vgg11_x0.125",
    "vgg11_gap_x0.125",
    "torchvision:shufflenet_v2_x0_5",
    "timm:mobilenetv3_small_050",
    "timm:vit_tiny_patch16_224",
]
STYLES = ["separate", "in place", "reused", "functional", "functional in place"]
QUANTISED = ["fake-quantised", "int8"]

RELEVANCE = {"lrp", "ebp", "rap"}
REFUSED = {
    "timm:vit_tiny_patch16_224": {"grad_cam"} | RELEVANCE,  # tokens: no feature maps, no rules
    "fake-quantised": RELEVANCE,
    "int8": RELEVANCE,
}
QUICK = {
    "smooth_grad.samples": 3,
    "gradient_shap.samples": 4,
    "integrated_gradients.steps": 6,
}
ROUNDING = {"rap": 1e-4}  # it takes large numbers from each other at every layer
CALM = {
    "gradient_shap.samples": 100,
    "gradient_shap.baselines": "zero",
    "integrated_gradients.steps": 150,
}
TARGETS = torch.tensor([3, 0, 7])
PIXELS = images(3)


class Block(nn.Module):
    """A residual block of grouped convolutions, whose ReLUs are called in one of `STYLES`."""

    def __init__(self, channels: int, style: str, shared: nn.ReLU) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=4)
        self.bn2 = nn.BatchNorm2d(channels)
        self.style = style
        if style == "reused":
            self.act1 = self.act2 = shared
        elif not style.startswith("functional"):
            self.act1, self.act2 = (nn.ReLU(inplace=style == "in place") for _ in range(2))

    def relu(self, number: int, x: torch.Tensor) -> torch.Tensor:
        if self.style.startswith("functional"):
            return F.relu(x, inplace=self.style.endswith("in place"))
        return getattr(self, f"act{number}")(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(1, self.bn1(self.conv1(x)))
        return self.relu(2, self.bn2(self.conv2(out)) + x)


class Styled(Network):
    """Two stages of a block each, with equal weights for every style."""

    def __init__(self, style: str) -> None:
        super().__init__()
        shared = nn.ReLU()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block1, self.block2 = Block(8, style, shared), Block(8, style, shared)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor, depth: int | None = None) -> Outputs:
        first = self.block1(self.stem(images))
        second = self.block2(self.pool(first))
        embedding = self.average(second).flatten(1)
        return Outputs(self.classifier(embedding), embedding, (first, second))


def quantised(kind: str) -> Network:
    """A ResNet with quantised layers."""
    network = made("resnet8").eval()
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if kind == "int8":
        norms = {
            name: name.replace("conv", "bn").replace("downsample.0", "downsample.1")
            for name in layers
            if name != "classifier"
        }
        grid = Grid.covering(-4.0, 8.0)
        Int8.of({name: Quantised(grid, norms.get(name)) for name in layers}, {}).apply(network)
    else:
        widths = Widths(weight_bits=6, input_bits=8, input_signed=True, per_channel=True)
        FakeQuantised.of(dict.fromkeys(layers, widths)).apply(network)
        for layer in network.modules():
            if isinstance(layer, FakeQuantisedLayer):
                layer.input_step.data.fill_(0.05)
    return network


@functools.cache
def network_of(kind: str) -> Network:
    if kind in STYLES:
        torch.manual_seed(0)
        return lively(Styled(kind))
    return quantised(kind) if kind in QUANTISED else made(kind)


def refuses(name: str, kind: str) -> bool:
    """Whether an explainer refuses a network, as it should be: in one line, before it starts."""
    expected = name in REFUSED.get(kind, set())
    text = ""
    try:
        check_explainers(network_of(kind), resolve_explainers(name, {}), SHAPE)
    except UserError as error:
        text = str(error)
    assert bool(text) == expected or name not in OURS, f"not as in REFUSED: {kind}: {text}"
    assert not text or name in text
    assert "\n" not in text
    assert len(text) < 300
    return bool(text)


def maps_of(name: str, kind: str, rows=slice(None), targets=TARGETS) -> torch.Tensor:
    found = explain(network_of(kind), resolve_explainers(name, QUICK), PIXELS[rows], targets[rows])
    return found[name]


def assert_near(found: torch.Tensor, expected: torch.Tensor, bound: float, kind: str = "") -> None:
    """To a bound on the difference; but where values are rounded, some may tip over."""
    if kind == "fake-quantised":
        alike = F.cosine_similarity(found.flatten(1), expected.flatten(1))
        assert (alike > 0.999).all()
    else:
        assert (found - expected).abs().max() <= bound


def every_third_pair():
    """Every explainer of ours on a third of the networks, by turns, and whatever is refused: each
    network has one that differentiates and one of relevance. `make soak` takes all pairs."""
    for row, name in enumerate(NAMES):
        for column, kind in enumerate([*ZOO, *QUANTISED]):
            turn = name not in OURS or (row + column) % 3 == 0
            here = turn or name in REFUSED.get(kind, set())
            yield pytest.param(name, kind, marks=[] if here else pytest.mark.soak)


@pytest.mark.parametrize(("name", "kind"), every_third_pair())
def test_a_map_is_of_its_image_and_class_alone(name, kind):
    """Finite, and the same without the other images, of one class or several."""
    network = network_of(kind)
    before = state_of(network)
    refused = refuses(name, kind)
    found = None if refused else maps_of(name, kind)
    assert_as_it_was(network, before)
    if found is None:
        return
    assert found.shape == (3, 32, 32)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.isfinite().all()
    if not EXPLAINERS[name](resolve_explainers(name, QUICK)[name], network).signed:
        assert found.min() >= 0
    one_class = torch.full((3,), 7)
    together = maps_of(name, kind, targets=one_class)
    bound = ROUNDING.get(name, 1e-5) * max(1.0, float(found.abs().max()))
    assert_near(maps_of(name, kind, slice(2, 3), one_class), together[2:], bound, kind)
    assert_near(together[2:], found[2:], bound, kind)
    # Another class is another map: the targets are read.
    assert any(not torch.allclose(together[row], found[row]) for row in (0, 1))
    assert (found != 0).any()


@pytest.mark.parametrize("style", STYLES[1:])
@pytest.mark.parametrize("name", NAMES)
def test_how_relus_are_called_changes_nothing(name, style):
    """In place, one for all, or as a function: maps are those of separate ReLUs, or refused."""
    plain, styled = network_of("separate").state_dict(), network_of(style).state_dict()
    assert all(torch.equal(styled[key], plain[key]) for key in plain)
    if refuses(name, style):
        return
    expected = maps_of(name, "separate")
    assert (expected != 0).any()
    assert_near(maps_of(name, style), expected, 1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_sums_are_what_is_promised(name):
    """`completeness` says what; of what is random, with settings that leave little to chance."""
    if EXPLAINERS[name].completeness is None:
        return
    for kind in ("resnet8", "wrn_10_0.5", "vgg11_x0.125"):
        if refuses(name, kind):
            continue
        network = network_of(kind)
        with as_explained(network):
            one = EXPLAINERS[name](resolve_explainers(name, CALM)[name], network)
            found = one.attribute(PIXELS, TARGETS).sum((1, 2, 3))
            expected = one.expected_sum(PIXELS, TARGETS)
        assert expected.shape == (3,)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=one.tolerance * scale)


class Fuse:
    """A hook that breaks a pass, once it is told in how many."""

    passes = -1

    def __call__(self, *_: object) -> None:
        self.passes -= 1
        if self.passes == 0:
            raise ArithmeticError("in the middle")


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_inside_leaves_the_network_as_it_was(name):
    """In the second pass, in the middle of the network."""
    network, fuse = made("resnet8"), Fuse()
    network.layer1.eval()
    network.conv1.weight.requires_grad_(False)
    network.layer2.register_forward_hook(fuse)
    before = state_of(network)
    fuse.passes = 2
    hooked = name in OURS - RELEVANCE  # the others may work on a copy
    expected = pytest.raises if hooked else contextlib.suppress
    with expected(ArithmeticError):
        explain(network, resolve_explainers(name, QUICK), PIXELS, TARGETS)
    fuse.passes = -1
    assert_as_it_was(network, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_mode_around_changes_nothing(name):
    if refuses(name, "resnet8"):
        return
    expected = maps_of(name, "resnet8")
    assert torch.equal(maps_of(name, "resnet8"), expected), "not the same again"
    drawn = torch.get_rng_state()
    for around in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with around:
            assert torch.equal(maps_of(name, "resnet8"), expected)
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_described(name):
    kind = EXPLAINERS[name]
    assert EXPLAINERS.title(name)
    for key, one in explainer_settings(name).items():
        assert one.help, key
        assert one.check(key, one.default) == one.default
    if name in OURS:
        source = sys.modules[kind.__module__].__doc__
        assert re.search(r"\b(19|20)\d\d\b", source), "no paper"
