"""Grad-CAM by its formula, at any layer, and where it says nothing."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from lively import images, made
from torch import nn

from trainables.attribution.explaining import as_explained, explain
from trainables.attribution.grad_cam import GradCAM, GradCAMConfig, grad_cam
from trainables.attribution.layers import Layer, find_layer, read_layer
from trainables.attribution.maps import is_empty, to_unit
from trainables.attribution.registry import resolve_explainers
from trainables.errors import UserError
from trainables.models import Network, create_model
from trainables.models.outputs import Outputs

TARGETS = torch.tensor([3, 0, 7])


def maps(network, layer="last", targets=TARGETS):
    found = resolve_explainers("grad_cam", {"grad_cam.layer": layer})
    return explain(network, found, images(len(targets)), targets)["grad_cam"]


def test_the_formula():
    """Equations 1 and 2, loop by loop."""
    draw = np.random.default_rng(0)
    features, gradients = draw.normal(size=(2, 3, 4, 5)), draw.normal(size=(2, 3, 4, 5))
    expected = np.zeros((2, 4, 5))
    for b in range(2):
        for k in range(3):
            alpha = sum(gradients[b, k, i, j] for i in range(4) for j in range(5)) / 20
            expected[b] += alpha * features[b, k]
    found = grad_cam(torch.tensor(features), torch.tensor(gradients))
    np.testing.assert_allclose(found.numpy(), np.maximum(expected, 0), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "layer", "theirs"),
    [
        ("vgg11_x0.125", "last", "features.27"),  # a ReLU in place
        ("vgg11_x0.125", "1", "features.6"),
        ("vgg11_x0.125", "module:features.22", "features.22"),
        ("resnet8", "0", "layer1"),
        ("resnet8", "module:layer3.0.conv1", "layer3.0.conv1"),
        ("wrn_10_0.5", "last", "relu"),
        ("mobilenetv2_x0.25", "2", "features.13"),
        ("timm:mobilenetv3_small_050", "3", "backbone.blocks.3"),
    ],
)
def test_it_is_captums(name, layer, theirs):
    """Where captum may be asked: at a layer that nothing behind it writes over."""
    network = made(name).eval()

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x).logits

    wrapped = Logits()
    there = network.get_submodule(theirs)
    expected = LayerGradCam(wrapped, there).attribute(
        images(3), TARGETS, relu_attributions=True, attr_dim_summation=True
    )
    expected = LayerGradCam.interpolate(expected, (32, 32), "bilinear")[:, 0].detach()
    found = maps(network, layer)
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_what_a_layer_returned_is_read_before_a_relu_in_place_writes_over_it():
    """bn1 of a block: a naive hook would see what relu1 made of it."""
    network = made("resnet8")
    found = maps(network, "module:layer3.0.bn1")
    network.layer3[0].relu1.inplace = False
    torch.testing.assert_close(maps(network, "module:layer3.0.bn1"), found, rtol=0, atol=0)
    after = maps(network, "module:layer3.0.relu1")
    assert not torch.allclose(after, found, rtol=1e-2)


class Forked(Network):
    """A stage that is read in two ways, by one of them through an identity."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True)
        self.same, self.conv = nn.Identity(), nn.Conv2d(4, 4, 3, 1, 1)
        self.classifier = nn.Linear(4, 10)

    def forward(self, images, depth=None):
        stage = self.act(self.stem(images))
        embedding = (self.same(stage) + self.conv(stage).relu()).mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, (stage,))


@pytest.mark.parametrize(
    "name",
    [
        *("forked", "resnet8", "resnet8_zeropad", "wrn_10_0.5", "mobilenetv2_x0.25"),
        *("vgg11_gap_x0.125", "torchvision:shufflenet_v2_x0_5", "timm:mobilenetv3_small_050"),
    ],
)
def test_a_stage_is_found_with_all_that_reads_it(name):
    """Its gradient is that of the stage in the network's outputs."""
    torch.manual_seed(0)
    network = Forked() if name == "forked" else made(name)
    with as_explained(network):
        for number in range(len(network(images(1)).stages)):
            layer = find_layer("layer", str(number), network, images(1))
            assert layer.module is not None
            (found, features), (expected, stage) = (
                read_layer(network, where, images(3)) for where in (layer, Layer(number, None))
            )
            torch.testing.assert_close(features, stage)
            gradients = [
                torch.autograd.grad(logits[range(3), TARGETS].sum(), there)[0]
                for logits, there in ((found, features), (expected, stage))
            ]
            torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_gradients_are_recorded_behind_the_layer_alone():
    network = made("resnet8")
    with as_explained(network):
        layer = find_layer("layer", "last", network, images(1))
        assert layer.module == "layer3.0.relu2"
        seen = []
        handle = network.layer2.register_forward_hook(lambda m, i, o: seen.append(o.requires_grad))
        GradCAM(GradCAMConfig(), network).attribute(images(3), TARGETS)
        handle.remove()
    assert seen
    assert not any(seen)


def test_a_class_that_nothing_speaks_for_has_a_map_of_zeros():
    network = made("resnet8")
    with torch.no_grad():
        network.classifier.weight[3] = -network.classifier.weight[3].abs()
    found = maps(network, targets=torch.full((4,), 3))
    assert torch.equal(found, torch.zeros(4, 32, 32))
    assert is_empty(found).all()
    assert torch.equal(to_unit(found), found)


def test_empty_maps_and_maps_from_0_to_1():
    ramp = torch.arange(12.0).view(3, 4) - 2
    constant = nn.functional.interpolate(torch.full((1, 1, 3, 3), 0.7), (8, 8), mode="bilinear")
    small = ramp * 1e-30
    broken = ramp.clone()
    broken[0, 0] = float("nan")
    stack = torch.stack([ramp, ramp * 0, ramp * 0 - 5, small, ramp + 1e8, broken])
    assert is_empty(stack).tolist() == [False, True, True, False, True, True]
    assert is_empty(constant).all()
    unit = to_unit(stack)
    for row in (0, 3):
        torch.testing.assert_close(unit[row], torch.arange(12.0).view(3, 4) / 11)
    assert not unit[[1, 2, 4, 5]].any()


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("resnet8", "3", r"grad_cam\.layer: expected last, a stage from 0 to 2 or module:NAME"),
        ("resnet8", "module:layr3", "unknown module .* 'layr3'; did you mean layer3"),
        ("resnet8", "module:classifier", r"module classifier of ResNet returns \[1, 10\]"),
        ("mobilenetv2_x0.25", "module:dropout", r"module dropout .* returns \[1, 1280\]"),
        (
            "timm:vit_tiny_patch16_224",
            "last",
            "no logit of VisionTransformer depends on",
        ),
        (
            "timm:vit_tiny_patch16_224",
            "module:backbone.blocks.1",
            r"returns \[1, 5, 192\]",
        ),
    ],
)
def test_a_layer_that_it_cannot_read(name, layer, expected):
    torch.manual_seed(0)
    network = create_model(name, 10, (3, 32, 32))
    hooks = [len(module._forward_hooks) for module in network.modules()]
    with pytest.raises(UserError, match=expected) as caught:
        maps(network, layer)
    assert "\n" not in str(caught.value)
    assert hooks == [len(module._forward_hooks) for module in network.modules()]
    assert network.training
