"""The copy of a network for relevance: it answers as the network does, or is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lively import SHAPE, images, made
from torch import Tensor, nn

from trainables.attribution import rules
from trainables.attribution.canonical import Canonical
from trainables.attribution.ebp import EBP
from trainables.attribution.lrp import LRP
from trainables.attribution.rap import RAP
from trainables.attribution.steps import Affine, Gated
from trainables.errors import UserError
from trainables.models import Network, create_model
from trainables.models.blueprint import Edit
from trainables.models.fake_quantised import FakeQuantised, Widths
from trainables.models.grid import Grid
from trainables.models.int8 import Int8, Quantised
from trainables.models.outputs import Outputs

TARGETS = torch.tensor([3, 0])
EXPLAINERS = (LRP, EBP, RAP)
ZOO = (
    *("resnet8", "resnet8_zeropad", "resnet50_x0.0625", "wrn_16_1", "vgg11_x0.125"),
    *("resnet8-eca", "resnet8-eca_last", "resnet8-eca_parallel", "vgg11_gap_x0.125"),
    *("mobilenetv2-minus13", "mobilenetv2_s2-minus13_x0.5", "torchvision:resnet18"),
)


def border() -> Tensor:
    """Images that say something at the border alone, where convolutions are padded."""
    found = images(2) * 3
    found[:, :, 2:-2, 2:-2] = 0
    return found


@torch.no_grad()
def assert_alike(network: Network, x: Tensor) -> Canonical:
    """To 1e-5 of what the logits are summed of, and exactly but for the rounding of float64."""
    made = Canonical(network, "lrp")
    found, outputs = made.run(x)[made.logits], network.eval()(x)
    size = F.linear(outputs.embedding.abs(), network.classifier.weight.abs()).max().item()
    torch.testing.assert_close(found, outputs.logits, rtol=0, atol=1e-5 * size)
    exact = Canonical(network, "lrp", torch.float64)
    found = exact.run(x.double())[exact.logits]
    true = copy.deepcopy(network).double()(x.double()).logits
    torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-9 * size)
    return made


@pytest.mark.parametrize("name", ZOO)
def test_logits_inside_are_those_outside(name: str) -> None:
    network = made(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.01
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    for x in (images(2), border()):
        canonical = assert_alike(network, x)
    alone = sum(isinstance(step, Affine) for step in canonical.steps)
    # In front of a convolution, and the last one: 2 for each of 6 blocks, less one folded in each.
    assert alone == (7 if name == "wrn_16_1" else 0)
    gated = sum(isinstance(step, Gated) for step in canonical.steps)
    assert gated == {"resnet8-eca": 3, "resnet8-eca_last": 1}.get(name, 0)
    with torch.no_grad():
        values = canonical.run(images(2))
        stages = () if ":" in name else network(images(2)).stages
    assert len(canonical.stages) == len(stages)
    assert len(values) == len(canonical.steps)


def test_channels_that_were_cut_from_a_zero_padded_shortcut() -> None:
    network = made("resnet8_zeropad")
    shortcut = network.layer2[0].downsample
    shortcut.keep(torch.arange(32), torch.arange(16), torch.device("cpu"))
    assert shortcut.source is not None
    assert_alike(network, images(2))


class Rectified(Network):
    """Equal weights, and rectifiers called in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.one = nn.ReLU()
        self.other = nn.ReLU()
        self.in_place = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(8, 10)

    def rectify(self, x: Tensor, module: nn.Module) -> Tensor:
        if self.way == "functional":
            return F.relu(x, inplace=True)
        if self.way == "positional":
            return F.relu(x, True)
        if self.way == "method":
            return x.relu_()
        return {"in place": self.in_place, "reused": self.one}.get(self.way, module)(x)

    def forward(self, x: Tensor, depth: int | None = None) -> Outputs:
        x = self.conv1(x)
        y = self.conv2(x)  # reads what may be rectified in place since
        x = self.rectify(x, self.one)
        x = self.rectify(y + x, self.other)
        x = self.rectify(self.conv3(x), self.one)
        embedding = x.mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, (x,))


@pytest.mark.parametrize("way", ["in place", "reused", "functional", "positional", "method"])
@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_ways_to_rectify(explainer: type, way: str) -> None:
    torch.manual_seed(0)
    separate = Rectified("separate").eval()
    other = Rectified(way).eval()
    other.load_state_dict(separate.state_dict())
    expected = explainer(explainer.Config(), separate).attribute(images(2), TARGETS)
    found = explainer(explainer.Config(), other).attribute(images(2), TARGETS)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


class Functional(Rectified):
    """Poolings, paddings, a concatenation and slices that are no modules."""

    def forward(self, x: Tensor, depth: int | None = None) -> Outputs:
        x = F.max_pool2d(F.relu(self.conv1(F.pad(x, (1, 0, 0, 1)))), 2)
        one, other = self.conv2(x).relu(), torch.sigmoid(self.conv3(x)) * x
        x = F.avg_pool2d(torch.cat([one[:, 2:], F.dropout(other, 0.5, self.training)], 1), 2)
        x = F.adaptive_avg_pool2d(x[:, ::2, 1:], 1)
        embedding = torch.flatten(torch.cat([x, x.mul(x.sigmoid())[:, :1]], dim=1), 1)
        return Outputs(self.classifier(embedding), embedding, (one, other))


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_operations_that_are_no_modules(explainer: type) -> None:
    torch.manual_seed(0)
    network = Functional("separate")
    network.classifier = nn.Linear(8, 10)
    assert_alike(network, images(2))
    made_of_it = explainer(explainer.Config(), network)
    found = made_of_it.attribute(images(2), TARGETS)
    torch.testing.assert_close(
        found.sum((1, 2, 3)), made_of_it.expected_sum(images(2), TARGETS), rtol=1e-3, atol=1e-5
    )
    if explainer is EBP:  # a stage that is one of two ways
        with pytest.raises(UserError, match="not all of Functional goes by stage 0"):
            EBP(EBP.Config(layer="0"), network)


class WrittenOver(Rectified):
    """What is added was rectified in place since."""

    def forward(self, x: Tensor, depth: int | None = None) -> Outputs:
        x = self.conv1(x)
        x = F.relu(x, inplace=True) + x
        embedding = x.mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, (x,))


class Branching(Rectified):
    def forward(self, x: Tensor, depth: int | None = None) -> Outputs:
        return super().forward(-x if x.mean() > 0 else x)


class Normed(Rectified):
    def __init__(self) -> None:
        super().__init__("separate")
        self.conv2 = nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1))


class OtherImages(Rectified):
    """Its BatchNorm looks at the batch in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__("separate")
        norm = nn.BatchNorm2d(8, track_running_stats=False)
        self.conv2 = nn.Sequential(norm, nn.Conv2d(8, 8, 3, padding=1))


class Dropping(Rectified):
    """Drops in evaluation mode, too."""

    def rectify(self, x: Tensor, module: nn.Module) -> Tensor:
        return F.dropout(F.relu(x), 0.5, True)


class OtherImagesToo(OtherImages):
    """As a function."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv2 = nn.BatchNorm2d(8), self.conv2[1]

    def rectify(self, x: Tensor, module: nn.Module) -> Tensor:
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


def edited(change: Edit) -> Network:
    network = made("resnet8")
    change.apply(network)
    return network


REFUSED = {
    "written over": (lambda: WrittenOver("separate"), "the trace of a pass does not show"),
    "branching": (lambda: Branching("separate"), "its forward pass cannot be traced"),
    "group norm": (Normed, "no rule for module 'conv2.0' \\(GroupNorm\\)"),
    "batch statistics": (OtherImages, "no rule for module 'conv2.0' \\(BatchNorm2d\\)"),
    "batch statistics by a function": (OtherImagesToo, "no rule for the operation 'batch_norm'"),
    "dropout": (lambda: Dropping("separate"), "no rule for the operation 'dropout'"),
    "fake-quantised": (
        lambda: edited(
            FakeQuantised.of(
                {
                    "layer1.0.conv1": Widths(
                        weight_bits=8, input_bits=8, input_signed=False, per_channel=True
                    )
                }
            )
        ),
        "ResNet: .* module 'layer1.0.conv1' \\(FakeQuantisedConv2d\\)",
    ),
    "integers": (
        lambda: edited(Int8.of({"conv1": Quantised(Grid(1, 0), "bn1")}, {})),
        "module 'conv1' \\(Int8Conv2d\\)",
    ),
    "a sum of quantised terms": (
        lambda: edited(Int8.of({}, {"layer1.0.sum": (Grid(1, 0), Grid(1, 0))})),
        "module 'layer1.0.sum' \\(Int8Sum\\)",
    ),
    "transformer": (
        lambda: create_model("timm:vit_tiny_patch16_224", 10, SHAPE),
        "no rule for|cannot be traced",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_what_is_not_understood_is_refused(explainer: type, case: str) -> None:
    build, reason = REFUSED[case]
    with pytest.raises(UserError, match=f"^{explainer.name} cannot explain .*({reason})") as caught:
        explainer(explainer.Config(), build().eval()).attribute(images(2), TARGETS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_the_network_stays_as_it_is(explainer: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, eps, modes and what it answers, also where something is raised inside."""
    network = made("wrn_10_1").train()
    network.bn.eval()
    before = copy.deepcopy(network)

    def assert_as_before() -> None:
        for (name, one), (_, other) in zip(
            network.named_modules(), before.named_modules(), strict=True
        ):
            assert (one.training, getattr(one, "eps", 0)) == (
                other.training,
                getattr(other, "eps", 0),
            ), name
            assert vars(one).keys() == vars(other).keys()
        own, kept = network.state_dict(), before.state_dict()
        assert all(torch.equal(own[key], kept[key]) for key in kept)
        assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
        said = copy.deepcopy(network).eval()(images(2)).logits
        assert torch.equal(said, copy.deepcopy(before).eval()(images(2)).logits)

    made_of_it = explainer(explainer.Config(), network)
    made_of_it.attribute(images(2), TARGETS)
    assert_as_before()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr(rules, "alpha_beta_of", broken)
    with pytest.raises(RuntimeError, match="inside"):
        made_of_it.attribute(images(2), TARGETS)
    assert_as_before()
