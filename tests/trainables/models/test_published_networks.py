"""Our networks compute what independent implementations of the same papers compute."""

from pathlib import Path

import pytest
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from trainables.models import Network, create_model
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.matching import fit_weights

CIFAR = (3, 32, 32)


def images() -> Tensor:
    return torch.randn(4, *CIFAR, generator=torch.Generator().manual_seed(0))


def warm(network: nn.Module) -> nn.Module:
    """Give BatchNorm statistics and affine weights that are not their initial values."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def imported(name: str, reference: nn.Module, folder: Path) -> Network:
    """Our network with the weights of another, from a file."""
    torch.save(reference.state_dict(), folder / "net.pth")
    return fit_weights(name, read_checkpoint(str(folder / "net.pth")), 10, CIFAR).network.eval()


def torchvision_with_small_stem(name: str) -> nn.Module:
    network = models.get_model(name, weights=None, num_classes=10)
    if name == "mobilenet_v2":
        network.features[0][0].stride = (1, 1)
        network.features[2].conv[1][0].stride = (1, 1)
    else:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("resnet18", "resnet18"), ("resnet50", "resnet50"), ("mobilenetv2", "mobilenet_v2")],
)
def test_torchvision(ours: str, theirs: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = warm(torchvision_with_small_stem(theirs))
    model = imported(ours, reference, tmp_path)
    torch.testing.assert_close(model(images()).logits, reference(images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "block", "layers"),
    [("resnet18-eca", BasicBlock, (2, 2, 2, 2)), ("resnet50-eca", Bottleneck, (3, 4, 6, 3))],
)
def test_eca_against_timm(
    name: str, block: type[nn.Module], layers: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    reference = TimmResNet(block, layers, num_classes=10, block_args={"attn_layer": "eca"})
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    warm(reference)
    model = imported(name, reference, tmp_path)
    torch.testing.assert_close(model(images()).logits, reference(images()), rtol=1e-4, atol=1e-4)


def test_vgg_against_torchvision() -> None:
    torch.manual_seed(0)
    reference = warm(models.vgg11_bn(weights=None))
    model = create_model("vgg11", 10, CIFAR).eval()
    model.features.load_state_dict(reference.features.state_dict(), strict=True)
    embedding = reference.features(images()).flatten(1)
    torch.testing.assert_close(model(images()).embedding, embedding)


def wide_resnet_by_hand(model: Network, x: Tensor) -> Tensor:
    """Zagoruyko and Komodakis, figure 1 and table 1, from the weights alone."""
    weights = model.state_dict()

    def norm_relu(x: Tensor, key: str) -> Tensor:
        mean, var = weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
        scale = weights[f"{key}.weight"] / (var + 1e-5).sqrt()
        shift = weights[f"{key}.bias"] - mean * scale
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).clamp(min=0)

    x = F.conv2d(x, weights["conv1.weight"], padding=1)
    for group, block in [(g, b) for g in (1, 2, 3) for b in (0, 1)]:
        key = f"group{group}.{block}"
        stride = 2 if group > 1 and block == 0 else 1
        activated = norm_relu(x, f"{key}.bn1")
        out = F.conv2d(activated, weights[f"{key}.conv1.weight"], stride=stride, padding=1)
        out = F.conv2d(norm_relu(out, f"{key}.bn2"), weights[f"{key}.conv2.weight"], padding=1)
        if block == 0:
            x = F.conv2d(activated, weights[f"{key}.shortcut.weight"], stride=stride)
        x = x + out
    pooled = norm_relu(x, "bn").mean((2, 3))
    return pooled @ weights["classifier.weight"].T + weights["classifier.bias"]


def test_wide_resnet_against_the_paper() -> None:
    torch.manual_seed(0)
    model = create_model("wrn_16_2", 10, CIFAR)
    warm(model)
    expected = wide_resnet_by_hand(model, images())
    torch.testing.assert_close(model(images()).logits, expected, rtol=1e-4, atol=1e-4)
