"""Networks as models and edits: what an edit leaves is what was there, and nothing else changes."""

import copy
import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from trainables.compression.measure import count_params, macs_of, params_of, size_bytes
from trainables.errors import UserError
from trainables.models.blueprint import EDITS, Blueprint, Edit, build, edit
from trainables.models.edits import Bits, Channels
from trainables.models.layers import Subsampling
from trainables.models.outputs import Network

SHAPE = (3, 16, 16)
KEPT = [0, 2, 3, 7, 8, 9]
INNER = Channels.kept(
    {"layer1.0.conv1": KEPT, "layer1.0.bn1": KEPT}, inputs={"layer1.0.conv2": KEPT}
)
"""Leaves 6 of 16 channels between the convolutions of a block."""


def made(model: str, *edits: Edit) -> Network:
    """A network whose statistics and scales are those of no other."""
    torch.manual_seed(0)
    network = build(Blueprint(model), 10, SHAPE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    network(torch.randn(8, *SHAPE))
    for one in edits:
        edit(network, one, SHAPE)
    return network.eval()


def images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def silent(network: Network, norm: str, kept: Sequence[int]) -> Network:
    """The whole network with nothing behind those channels of a BatchNorm that are cut."""
    whole = copy.deepcopy(network)
    weight, bias = whole.get_parameter(f"{norm}.weight"), whole.get_parameter(f"{norm}.bias")
    cut = [channel for channel in range(len(bias)) if channel not in kept]
    with torch.no_grad():
        weight[cut] = bias[cut] = 0
    return whole


@pytest.mark.parametrize("trained_first", [True, False])
def test_a_cut_block_computes_what_is_left(trained_first: bool) -> None:
    network = made("resnet8")
    whole = silent(network, "layer1.0.bn1", KEPT)
    if trained_first:
        edit(network, INNER, SHAPE)
    else:  # built from the blueprint, then loaded
        weights = made("resnet8", INNER).state_dict()
        network = build(Blueprint("resnet8", (INNER,)), 10, SHAPE).eval()
        network.load_state_dict(weights)
    assert torch.allclose(network(images()).logits, whole(images()).logits, atol=1e-5)
    block = network.get_submodule("layer1.0")
    assert (block.conv1.out_channels, block.bn1.num_features, block.conv2.in_channels) == (6, 6, 6)
    assert repr(block.conv2).startswith("Conv2d(6, 16, kernel_size=(3, 3), stride=(1, 1), ")
    lost = 10 * (16 * 9 + 2 + 16 * 9)
    assert count_params(network) == count_params(whole) - lost


@pytest.mark.parametrize("model", ["torchvision:resnet18", "timm:resnet10t"])
def test_a_network_of_another_library(model: str) -> None:
    pytest.importorskip(model.partition(":")[0])
    network, block = made(model), "backbone.layer2.0"
    whole = silent(network, f"{block}.bn1", KEPT)
    cut = Channels.kept(
        {f"{block}.conv1": KEPT, f"{block}.bn1": KEPT}, inputs={f"{block}.conv2": KEPT}
    )
    edit(network, cut, SHAPE)
    ours, theirs = network(images()), whole(images())
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-4)
    assert [one.shape for one in ours.stages] == [one.shape for one in theirs.stages]
    assert count_params(build(network.blueprint, 10, SHAPE)) == count_params(network)


def test_slices_by_hand() -> None:
    before, after = made("resnet8"), made("resnet8", INNER)
    for name, values in after.state_dict().items():
        whole = before.state_dict()[name]
        if name in ("layer1.0.conv1.weight", *(f"layer1.0.bn1.{key}" for key in _NORM)):
            whole = whole[KEPT]
        elif name == "layer1.0.conv2.weight":
            whole = whole[:, KEPT]
        assert torch.equal(values, whole), name


_NORM = ("weight", "bias", "running_mean", "running_var")


def test_a_linear_layer_and_the_stage_before_it() -> None:
    """Channels of the last convolution go, and with them inputs of the classifier."""
    network = made("mobilenetv2_x0.25")
    norm, conv = [
        [name for name, module in network.named_modules() if isinstance(module, kind)][-1]
        for kind in (nn.BatchNorm2d, nn.Conv2d)
    ]
    kept = range(5, 60)
    whole = silent(network, norm, kept)
    cut = Channels.kept({conv: kept, norm: torch.tensor(kept)}, inputs={"classifier": kept})
    edit(network, cut, SHAPE)
    assert network.classifier.in_features == network(images()).embedding.shape[1] == 55
    assert torch.allclose(network(images()).logits, whole(images()).logits, atol=1e-5)


def test_a_depthwise_convolution_loses_groups() -> None:
    network = made("mobilenetv2-minus15_x0.5")
    expand, norm, depthwise, behind = (
        f"features.2.conv.{place}" for place in ("0.0", "0.1", "1.0", "1.1")
    )
    project = "features.2.conv.2"
    kept = [1, 4, 5, 6, 40]
    whole = silent(network, behind, kept)
    cut = Channels.kept(
        {expand: kept, norm: kept, depthwise: kept, behind: kept},
        inputs={depthwise: kept, project: kept},
    )
    edit(network, cut, SHAPE)
    layer = network.get_submodule(depthwise)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (5, 5, 5)
    assert torch.allclose(network(images()).logits, whole(images()).logits, atol=1e-5)


def test_groups_of_several_channels() -> None:
    """Every group's filters keep their own inputs, and the bias goes along."""
    conv = nn.Conv2d(8, 12, 3, groups=4)
    outputs, inputs = [0, 2, 6, 8], [0, 5]
    holder = nn.Module()
    holder.conv = conv
    weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()
    x = torch.randn(2, 8, 5, 5)
    x[:, [1, 2, 3, 4, 6, 7]] = 0
    whole = conv(x)[:, outputs]
    Channels.kept({"conv": outputs}, {"conv": inputs}).apply(holder)  # type: ignore[arg-type]
    assert (conv.groups, conv.in_channels, conv.out_channels) == (2, 2, 4)
    assert torch.equal(conv.weight, torch.cat([weight[[0, 2], :1], weight[[6, 8], 1:]]))
    assert torch.equal(conv.bias, bias[outputs])
    assert torch.allclose(conv(x[:, inputs]), whole, atol=1e-6)


def test_a_strided_convolution_that_becomes_narrow() -> None:
    """It leaves out pixels from then on, as a narrow one of the zoo does."""
    kept = range(12)
    network = made("resnet8")
    shortcut = "layer2.0.downsample.0"
    assert type(network.get_submodule(shortcut)) is nn.Conv2d
    stage = ["conv1", "bn1", "layer1.0.conv2", "layer1.0.bn2"]
    cut = Channels.kept(
        dict.fromkeys(stage, kept),
        dict.fromkeys(["layer1.0.conv1", "layer2.0.conv1", shortcut], kept),
    )
    edit(network, cut, SHAPE)
    assert type(network.get_submodule(shortcut)) is Subsampling
    network(images()).logits.sum().backward()
    assert network.get_parameter(f"{shortcut}.weight").grad.shape == (32, 12, 1, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Channels.kept({"layer9": [0]}), "the network has no module 'layer9'"),
        (Channels.kept({"relu": [0]}), "module 'relu' is ReLU, expected Conv2d or Linear or"),
        (Channels.kept({"conv1": [0, 16]}), "'conv1' keeps outputs 0,16, expected some of 0 to 15"),
        (Channels.kept({"conv1": []}), "'conv1' keeps outputs of no channel, expected some of"),
        (Channels.kept(inputs={"bn1": [0]}), "'bn1' has outputs only, as a BatchNorm has"),
        (Channels.kept({"conv1": [0, 1]}), "edit 'channels' of resnet8: its shapes do not meet"),
        (Channels.kept({"classifier": range(9)}), "'channels' of resnet8: leaves 9 of its 10"),
        (Bits.of({"layer1": 4}), "module 'layer1' has no weight of its own"),
        (Bits.of({"nope": 4}), "the network has no module 'nope'"),
    ],
)
def test_edits_that_do_not_fit(change: Edit, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        edit(made("resnet8"), change, SHAPE)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (None, "group 0 of module 'conv' has inputs left, no outputs"),
        ([2], "group 1 of module 'conv' has outputs left, no inputs"),
        ([2, 3, 4], "the groups of module 'conv' would differ in size"),
    ],
)
def test_groups_that_do_not_fit(inputs: list[int] | None, expected: str) -> None:
    holder = nn.Module()
    holder.conv = nn.Conv2d(6, 6, 1, groups=3)
    change = Channels.kept({"conv": [2, 3, 4, 5]}, {"conv": inputs} if inputs else None)
    if inputs == [2]:
        change = Channels.kept({"conv": [2, 4]}, {"conv": [4]})
    with pytest.raises(UserError, match=expected):
        change.apply(holder)  # type: ignore[arg-type]


def test_bytes_at_bit_widths() -> None:
    network = made("resnet8")
    before = size_bytes(network)
    edit(network, Bits.of({"conv1": 3, "classifier": 8}), SHAPE)
    conv, linear = 3 * 16 * 9, 64 * 10
    assert size_bytes(network) == before - 4 * conv - 4 * linear + conv * 3 // 8 + linear
    edit(network, Bits.of({"conv1": 1}), SHAPE)  # the last one counts
    assert size_bytes(network) == before - 4 * conv - 4 * linear + conv // 8 + linear
    assert size_bytes(copy.deepcopy(network)) == size_bytes(network)
    kept = Bits.of({"layer1.0.conv1": 5})
    edit(network, INNER, SHAPE)
    smaller = size_bytes(network)
    edit(network, kept, SHAPE)
    assert smaller - size_bytes(network) == 4 * 6 * 16 * 9 - 6 * 16 * 9 * 5 // 8
    with pytest.raises(ValueError, match="conv1: expected 1 to 32 bits, got 0"):
        Bits.of({"conv1": 0})


def test_json_and_digest() -> None:
    plain, cut = Blueprint("resnet8"), Blueprint("resnet8", (INNER, Bits.of({"conv1": 4})))
    assert json.loads(cut.to_json()) == {
        "model": "resnet8",
        "edits": [
            {
                "kind": "channels",
                "outputs": {"layer1.0.bn1": "0,2-3,7-9", "layer1.0.conv1": "0,2-3,7-9"},
                "inputs": {"layer1.0.conv2": "0,2-3,7-9"},
            },
            {"kind": "bits", "weights": {"conv1": 4}},
        ],
    }
    for blueprint in (plain, cut):
        again = Blueprint.from_json(blueprint.to_json())
        assert (again, hash(again), again.digest) == (blueprint, hash(blueprint), blueprint.digest)
    assert plain.label == "resnet8"
    assert cut.label == f"resnet8~{cut.digest[:12]}"
    backwards = Channels.kept({"layer1.0.bn1": KEPT, "layer1.0.conv1": KEPT[::-1]})
    assert backwards.outputs == INNER.outputs


def test_what_runs_the_same_code() -> None:
    """The places and the code of one student serve the next, which keeps other channels."""
    other = [[1, 2, 3, 7, 8, 9], [1, 2, 3, 7, 8, 9, 10]]
    same, larger = (
        Channels.kept({"layer1.0.conv1": k, "layer1.0.bn1": k}, {"layer1.0.conv2": k})
        for k in other
    )
    structure = Blueprint("resnet8", (INNER,)).structure
    assert Blueprint("resnet8", (same, Bits.of({"conv1": 2}))).structure == structure
    others = [("resnet8", (larger,)), ("resnet8", ()), ("resnet14", (INNER,))]
    assert structure not in [Blueprint(*other).structure for other in others]


def test_the_built_network_knows_what_it_is() -> None:
    bits = Bits.of({"conv1": 4})
    network = made("resnet8", INNER, bits)
    assert network.blueprint == Blueprint("resnet8", (INNER, bits))
    with torch.device("meta"):
        again = build(network.blueprint, 10, SHAPE)
    assert again.blueprint == network.blueprint
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
    assert size_bytes(again) == size_bytes(network)


def test_what_is_measured_is_the_built_network() -> None:
    whole, cut = Blueprint("resnet8"), Blueprint("resnet8", (INNER,))
    pixels = SHAPE[1] * SHAPE[2]
    assert macs_of(whole, 10, SHAPE) - macs_of(cut, 10, SHAPE) == pixels * 10 * 16 * 9 * 2
    assert params_of(cut, 10, SHAPE) == count_params(made("resnet8", INNER))


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ('{"kind": "chanels"}', UserError, "unknown edit 'chanels'; did you mean channels"),
        ('{"kind": "channels", "outputs": {"a": "1--3"}, "inputs": {}}', ValueError, "'1--3'"),
        ('{"kind": "channels"}', KeyError, "outputs"),
        ('{"kind": "bits", "weights": {"a": 64}}', ValueError, "1 to 32 bits"),
    ],
)
def test_damaged_json(text: str, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        Blueprint.from_json(f'{{"model": "resnet8", "edits": [{text}]}}')


def test_kinds_have_the_names_that_they_say() -> None:
    assert {name: kind.kind for name, kind in zip(EDITS, EDITS.values(), strict=True)} == {
        "channels": "channels",
        "bits": "bits",
        "masked": "masked",
        "fake_quantised": "fake_quantised",
        "int8": "int8",
    }
