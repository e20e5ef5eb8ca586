"""Layers are found, counted and timed; the graph shows what runs; nothing is left behind."""

import pytest
import torch
from torch import Tensor, nn

from trainables.compression.measure import count_macs, count_params
from trainables.inspecting.graph import graph_of
from trainables.inspecting.layers import layer_table
from trainables.models import Network, create_model
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Bits
from trainables.models.outputs import Outputs

SHAPE = (3, 32, 32)


@pytest.fixture(autouse=True)
def least_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not what these tests are about."""
    monkeypatch.setattr("trainables.inspecting.layers._BUDGET_SECONDS", 0.0)


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet8-eca", "wrn_10_0.5", "mobilenetv2-minus15_x0.5"]
)
def test_layers_sum_up_to_the_network(name: str) -> None:
    network = create_model(name, 10, SHAPE).train()
    table = layer_table(network, SHAPE)
    assert table.macs == count_macs(network, SHAPE)
    assert table.params == count_params(network) == sum(layer.params for layer in table.layers)
    assert all(layer.output and layer.ms > 0 for layer in table.layers)
    assert table.whole == pytest.approx(sum(layer.ms for layer in table.layers) + table.between)
    assert hooks(network) == 0
    assert network.training


def test_a_layer_is_described() -> None:
    network = build(Blueprint("resnet8"), 10, SHAPE)
    edit(network, Bits.of({"layer2.0.conv1": 4}), SHAPE)
    with torch.no_grad():
        network.get_parameter("layer2.0.conv1.weight")[:, 0] = 0
    layers = {layer.name: layer for layer in layer_table(network, SHAPE).layers}
    layer = layers["layer2.0.conv1"]
    assert (layer.kind, layer.output) == ("Conv2d 3x3, stride 2", (32, 16, 16))
    assert (layer.params, layer.nonzeros) == (16 * 32 * 9, 15 * 32 * 9)
    assert (layer.bits, layer.macs) == (4, 16 * 32 * 9 * 16 * 16)
    assert layers["conv1"].bits == 32
    assert layers["relu"].bits is None
    assert "layer1.0.downsample" not in layers  # an identity


class Twice(Network):
    """A layer that is called twice, one that is never, and one whose parts belong to it."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(3, 3, 3, padding=1)
        self.never = nn.Conv2d(3, 3, 1)
        self.whole = nn.Conv2d(3, 8, 1, bias=False)
        self.whole.part = nn.ReLU()
        self.classifier = nn.Linear(8, 10)

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        features = self.whole(self.again(self.again(images)) + images)
        embedding = features.mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, (features,))


def test_calls_add_up_and_parts_belong_to_their_layer() -> None:
    layers = {layer.name: layer for layer in layer_table(Twice(), SHAPE).layers}
    assert list(layers) == ["again", "never", "whole", "classifier"]
    assert layers["again"].macs == 2 * 9 * 3 * 3 * 32 * 32
    assert (layers["never"].output, layers["never"].ms) == ((), 0)


class Broken(Twice):
    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        self.again(images)
        raise RuntimeError("broken")


def test_nothing_is_left_on_a_network_that_breaks() -> None:
    network = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        layer_table(network, SHAPE)
    assert hooks(network) == 0


def test_the_graph_shows_what_runs() -> None:
    boxes = graph_of(create_model("resnet8", 10, SHAPE), SHAPE)
    by = {box.name: box for box in boxes if box.name}
    assert boxes[0].label == "images"
    assert by["conv1"].label == "conv 3x3, BN, ReLU"
    assert by["conv1"].inputs == [boxes[0]]
    assert by["layer1.0.sum"].label == "+, ReLU"
    assert {box.name for box in by["layer1.0.sum"].inputs} == {"layer1.0.conv2", "conv1"}
    shortcut = by["layer2.0.downsample.0"]
    assert (shortcut.label, shortcut.shape) == ("conv 1x1, stride 2, BN", "32x16x16")
    assert {box.name for box in by["layer2.0.sum"].inputs} == {"layer2.0.conv2", shortcut.name}
    assert (boxes[-1].label, boxes[-1].shape) == ("linear", "10")


def test_what_leads_nowhere_and_what_is_made_of_weights_alone_is_no_box() -> None:
    class Sided(Twice):
        def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
            features = nn.functional.conv2d(images, self.whole.weight.abs() * 2)
            embedding = features.mean((2, 3))
            return Outputs(self.classifier(embedding), embedding, (self.never(images),))

    labels = [box.label for box in graph_of(Sided(), SHAPE)]
    assert labels == ["images", "conv 1x1", "mean", "linear"]
