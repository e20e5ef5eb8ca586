"""Inner features by name, and gradients with respect to the input."""

import copy

import pytest
import torch
from torch import Tensor, nn

from trainables.models import create_model, output_shapes
from trainables.models.features import INPUT_GRADIENT, with_features
from trainables.models.observe import observe

SHAPE = (3, 32, 32)
MODELS = [
    ("resnet8", "layer2.0.conv1"),
    ("torchvision:resnet18", "backbone.layer2.0.conv1"),
    ("timm:resnet10t", "backbone.layer1.0.bn2"),
    ("timm:vit_tiny_patch16_224", "backbone.blocks.3.mlp"),
]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def first_two(classes: int) -> Tensor:
    """Half of each of the first two classes."""
    shares = torch.zeros(4, classes)
    shares[:, :2] = 0.5
    return shares


def smooth(network: nn.Module) -> nn.Module:
    """Without kinks, over which differences would step."""
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
            elif isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
                setattr(module, name, pool)
    return network


@pytest.mark.parametrize(("model", "module"), MODELS)
def test_what_a_module_returned(model: str, module: str) -> None:
    network = create_model(model, 10, SHAPE)
    seen: list[Tensor] = []
    twin = copy.deepcopy(network)
    twin.get_submodule(module).register_forward_hook(lambda *of: seen.append(of[2].clone()))
    images = drawn(4, *SHAPE)
    wanted = twin(images)
    key = f"module:{module}"
    found = with_features(network, images, {key}, None, learning=True)
    torch.testing.assert_close(found.features, {key: seen[-1]}, rtol=0, atol=0)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=0)
    assert output_shapes(network, SHAPE).features[key] == tuple(seen[-1].shape[1:])
    found.features[key].sum().backward()
    assert any(weight.grad is not None for weight in network.parameters())
    copied = copy.deepcopy(network)
    assert not any(one._forward_hooks for net in (network, copied) for one in net.modules())


def test_what_is_overwritten_later_is_as_it_was() -> None:
    network = create_model("torchvision:resnet18", 10, SHAPE)
    key = "module:backbone.bn1"  # the next module is a ReLU in its place
    found = with_features(network, drawn(4, *SHAPE), {key}, None, learning=True).features[key]
    assert found.min() < 0


@pytest.mark.parametrize("model", ["resnet8", "timm:resnet10t", "timm:vit_tiny_patch16_224"])
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_the_true_logits(model: str, training: bool) -> None:
    """Against differences of the function itself, and so is the gradient's own gradient."""
    network = smooth(create_model(model, 10, SHAPE)).double().train(training)
    images = drawn(4, *SHAPE).double()
    weight = next(network.parameters())

    def said() -> Tensor:
        logits = observe(network, images).logits
        return (logits[:, 0] + logits[:, 1]).sum() / 2

    def gradient(learning: bool) -> Tensor:
        found = with_features(network, images, {INPUT_GRADIENT}, first_two, learning=learning)
        return found.features[INPUT_GRADIENT].double()

    direction, step = drawn(4, *SHAPE).double(), 1e-6
    slope = (gradient(False) * direction).sum()
    with torch.no_grad():
        images += step * direction
        above = said()
        images -= 2 * step * direction
        below = said()
        images += step * direction
    torch.testing.assert_close((above - below) / (2 * step), slope, rtol=1e-4, atol=1e-7)

    size = gradient(True).square().sum()
    (found,) = torch.autograd.grad(size, weight)
    along = drawn(*weight.shape).double()
    with torch.no_grad():
        weight += step * along
        above = gradient(False).square().sum()
        weight -= 2 * step * along
        below = gradient(False).square().sum()
    wanted = (above - below) / (2 * step)
    torch.testing.assert_close((found * along).sum(), wanted, rtol=2e-3, atol=1e-6)


def test_without_learning_nothing_has_a_gradient() -> None:
    network = create_model("resnet8", 10, SHAPE).eval()
    keys = {INPUT_GRADIENT, "module:layer1"}
    found = with_features(network, drawn(4, *SHAPE), keys, first_two, learning=False)
    tensors = [found.logits, found.embedding, *found.stages, *found.features.values()]
    assert not any(one.requires_grad for one in tensors)
    assert found.features.keys() == keys


def test_shapes_leave_out_what_never_runs() -> None:
    network = create_model("resnet8", 10, SHAPE)
    network.idle = nn.ReLU()  # type: ignore[assignment]
    features = output_shapes(network, SHAPE).features
    assert "module:idle" not in features
    assert features["module:classifier"] == (10,)
    assert features[INPUT_GRADIENT] == SHAPE
