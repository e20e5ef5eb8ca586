"""Checkpoints of other projects: their names, their wrapping, their computation.

The networks here compute what those projects' released code computes, and have its names.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from trainables.errors import UserError
from trainables.models import create_model
from trainables.models.registry import FAMILIES
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.matching import Fit, fit_weights

CIFAR = (3, 32, 32)
Weights = dict[str, Tensor]


def warm(network: nn.Module) -> nn.Module:
    """Weights and statistics that are not their initial ones, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def fitted(
    model: str, content: Any, folder: Path, classes: int = 10, shape: tuple[int, int, int] = CIFAR
) -> Fit:
    torch.save(content, folder / "net.pth")
    return fit_weights(model, read_checkpoint(str(folder / "net.pth")), classes, shape)


def same_logits(
    theirs: Callable[[Tensor], Tensor], fit: Fit, shape: tuple[int, ...] = CIFAR
) -> None:
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(images)
        found = fit.network.eval()(images).logits
    assert expected.std() > 1e-3, "logits that tell"
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class ShortcutBlock(nn.Module):
    """kuangliu's and RepDistiller's resnetv2: a shortcut of its own name."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class Kuangliu(nn.Module):
    def __init__(self, depths: tuple[int, ...] = (2, 2, 2, 2)) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 3), nn.BatchNorm2d(64)
        channels = 64
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(ShortcutBlock(channels, 64 << i, 2 if i and not j else 1))
                channels = 64 << i
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class WideBlock(nn.Module):
    """RepDistiller's and mdistiller's, from Yang's code."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.convShortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        x = x if self.convShortcut is None else self.convShortcut(out)
        return x + self.conv2(F.relu(self.bn2(self.conv1(out))))


class WideGroup(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            WideBlock(inputs, outputs, stride),
            *(WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class RepDistillerWRN(nn.Module):
    def __init__(self, depth: int, k: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv(3, 16, 3)
        self.block1 = WideGroup(16, 16 * k, blocks, 1)
        self.block2 = WideGroup(16 * k, 32 * k, blocks, 2)
        self.block3 = WideGroup(32 * k, 64 * k, blocks, 2)
        self.bn1 = nn.BatchNorm2d(64 * k)
        self.fc = nn.Linear(64 * k, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class RepDistillerVGG(nn.Module):
    """It pools four times at 64 pixels and three times below, and then averages."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for i, width in enumerate([64, 128, 256, 512, 512]):
            layers: list[nn.Module] = []
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
                layers.append(nn.ReLU())
                channels = width
            self.add_module(f"block{i}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        for i in range(3):
            x = F.max_pool2d(F.relu(self.get_submodule(f"block{i}")(x)), 2)
        x = F.relu(self.block3(x))
        x = F.max_pool2d(x, 2) if height == 64 else x
        return self.classifier(F.adaptive_avg_pool2d(F.relu(self.block4(x)), 1).flatten(1))


class RepDistillerBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.conv = nn.Sequential(
            *(conv(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, hidden, 3, stride, hidden), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, outputs, 1), nn.BatchNorm2d(outputs)),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class RepDistillerMobileNet(nn.Module):
    def __init__(self, width: float) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(conv(3, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.ModuleList()
        settings = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
        for expand, base, repeats, first in [*settings, (6, 160, 3, 2), (6, 320, 1, 1)]:
            blocks = []
            for stride in [first] + [1] * (repeats - 1):
                blocks.append(RepDistillerBlock(channels, int(base * width), stride, expand))
                channels = int(base * width)
            self.blocks.append(nn.Sequential(*blocks))
        self.conv2 = nn.Sequential(conv(channels, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.conv2(x).mean((2, 3)))


def small_stem(network: nn.Module) -> nn.Module:
    network.conv1, network.maxpool = conv(3, 64, 3), nn.Identity()
    return network


def small_strides(network: nn.Module) -> nn.Module:
    """timm's and torchvision's MobileNetV2, for small images."""
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    strided = [module for module in convs if module.stride == (2, 2)]
    for module in strided[:2]:
        module.stride = (1, 1)
    return network


def renamed(model: str, *changes: tuple[str, str]) -> tuple[nn.Module, Weights]:
    """A network of ours, and its weights under other names."""
    network = warm(create_model(model, 10, CIFAR))
    weights = network.state_dict()
    for pattern, replacement in changes:
        weights = {re.sub(pattern, replacement, name): w for name, w in weights.items()}
    return network, weights


@pytest.mark.parametrize(
    ("asked", "built", "theirs", "certain"),
    [
        ("resnet18", "resnet18", Kuangliu, True),
        ("wrn_16_2", "wrn_16_2", lambda: RepDistillerWRN(16, 2), True),
        ("wrn_16_1", "wrn_16_1", lambda: RepDistillerWRN(16, 1), True),
        ("vgg13", "vgg13_gap", RepDistillerVGG, True),
        ("mobilenetv2_s2_x0.5", "mobilenetv2_s2_x0.5", lambda: RepDistillerMobileNet(0.5), True),
        # Their names do not tell the strides, and whether the stem is pooled.
        (
            "mobilenetv2",
            "mobilenetv2",
            lambda: small_strides(models.mobilenet_v2(num_classes=10)),
            False,
        ),
        (
            "mobilenetv2",
            "mobilenetv2",
            lambda: small_strides(timm.create_model("mobilenetv2_100", num_classes=10)),
            False,
        ),
        ("resnet50", "resnet50", lambda: small_stem(models.resnet50(num_classes=10)), False),
        ("resnet18-eca", "resnet18-eca", lambda: small_stem(eca18()), False),
    ],
    ids=[
        *("kuangliu", "wrn", "wrn-same-width", "vgg", "mobile_half"),
        *("torchvision-mobilenet", "timm-mobilenet", "torchvision-resnet", "timm-eca"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"epoch": 3, "model": w, "best_acc": 0.7}])
def test_networks_of_other_projects(
    asked: str,
    built: str,
    theirs: Callable[[], nn.Module],
    certain: bool,
    wrap: Any,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = warm(theirs())
    fit = fitted(asked, wrap(network.state_dict()), tmp_path)
    assert fit.model == built
    assert fit.certain is certain
    same_logits(network, fit)


def eca18() -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, block_args={"attn_layer": "eca"})


def test_the_vgg_of_the_crd_protocol_at_64_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = warm(RepDistillerVGG())
    shape = (3, 64, 64)
    same_logits(network, fitted("vgg13", network.state_dict(), tmp_path, shape=shape), shape)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_family_under_unknown_names_is_known_by_its_order(
    family: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network, weights = renamed(family.members[0], (r"^", "net.q"), ("conv", "kk"), ("layer", "zz"))
    fit = fitted(family.members[0], {"params": weights}, tmp_path)
    twins = " (vgg11_gap would fit as well)" if family.name == "vgg" else ""
    assert (fit.how, fit.certain) == ("by the order of modules" + twins, False)
    same_logits(lambda images: network(images).logits, fit)
    safetensors.torch.save_file({k: w.contiguous() for k, w in weights.items()}, tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"unknown names, such as .*not kept by safetensors"):
        fit_weights(family.members[0], read_checkpoint(str(tmp_path / "a.bin")), 10, CIFAR)


PROJECTS = {
    "chenyaofo": ("resnet20", [("classifier", "fc")]),
    "repdistiller": ("resnet8x4", [("classifier", "fc")]),
    "akamaster": ("resnet20_zeropad", [("^", "module."), ("classifier", "linear")]),
    "option-B": ("resnet32", [("downsample", "shortcut"), ("classifier", "linear")]),
    "weiaicunzai": (
        "resnet50",
        [
            (r"layer(\d)\.", lambda match: f"conv{int(match[1]) + 1}_x."),
            (
                r"_x\.(\d+)\.conv([123])",
                lambda m: f"_x.{m[1]}.residual_function.{3 * int(m[2]) - 3}",
            ),
            (r"_x\.(\d+)\.bn([123])", lambda m: f"_x.{m[1]}.residual_function.{3 * int(m[2]) - 2}"),
            (r"^conv1\.", "conv1.0."),
            (r"^bn1\.", "conv1.1."),
            *(("downsample", "shortcut"), ("classifier", "fc")),
        ],
    ),
    "wide layers": (
        "wrn_16_2",
        [
            ("group", "layer"),
            (r"^bn\.", "bn1."),
            (r"shortcut\.", "shortcut.0."),
            ("classifier", "linear"),
        ],
    ),
    "tonylins": (
        "mobilenetv2",
        [
            (r"(features\.1\.conv)\.1\.", r"\1.3."),
            (r"(features\.1\.conv)\.2\.", r"\1.4."),
            (r"(features\.1\.conv)\.0\.(\d)", r"\1.\2"),
            *((rf"(features\.(?!1\.)\d+\.conv)\.{a}\.", rf"\1.{b}.") for a, b in ((3, 7), (2, 6))),
            (r"(features\.(?!1\.)\d+\.conv)\.1\.0\.", r"\1.3."),
            (r"(features\.(?!1\.)\d+\.conv)\.1\.1\.", r"\1.4."),
            (r"(features\.(?!1\.)\d+\.conv)\.0\.([01])\.", r"\1.\2."),
            (r"^features\.18\.", "conv."),
        ],
    ),
    "a stage counted from 0": ("resnet14", [(r"layer(\d)", lambda m: f"stages.{int(m[1]) - 1}")]),
}


@pytest.mark.parametrize("project", PROJECTS)
def test_known_translations(project: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, changes = PROJECTS[project]
    network, weights = renamed(model, *changes)
    assert weights.keys() != network.state_dict().keys()
    fit = fitted(model.removesuffix("_zeropad"), {"net": weights, "acc": 91.2}, tmp_path)
    assert fit.how.startswith("by known translations (")
    assert fit.model == model
    same_logits(lambda images: network(images).logits, fit)


LIBRARIES = {
    "timm:resnet18": lambda: timm.create_model("resnet18", num_classes=10),
    "timm:resnet18.a1_in1k": lambda: timm.create_model("resnet18", num_classes=10),
    "timm:vit_tiny_patch16_224": lambda: timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=32
    ),
    "torchvision:mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=10),
    "torchvision:densenet121": lambda: models.densenet121(num_classes=10),
    "torchvision:googlenet": lambda: models.googlenet(num_classes=10, init_weights=False),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_state_dicts_of_libraries(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = warm(LIBRARIES[name]())
    old = r"(denselayer\d+\.(?:norm|conv))(\d)\."  # as torchvision's oldest files
    weights = {re.sub(old, r"\1.\2.", key): w for key, w in network.state_dict().items()}
    fit = fitted(name, {"state_dict": {f"module.{key}": w for key, w in weights.items()}}, tmp_path)
    assert fit.model == name.partition(".")[0]
    assert fit.left_out == (("aux1 (9)", "aux2 (9)") if "googlenet" in name else ())
    same_logits(network, fit)


def test_an_order_that_leaves_a_choice_is_refused(tmp_path: Path) -> None:
    """Twins counted the other way round, a shortcut first, a BatchNorm before its convolution."""
    _, weights = renamed("resnet20", ("layer", "q"))
    names = list(weights)
    first = [name for name in names if name.startswith("q1.0.")]
    place = names.index(first[0])

    def moved(order: list[str]) -> Weights:
        rest = [name for name in names if name not in first]
        return {name: weights[name] for name in [*rest[:place], *order, *rest[place:]]}

    swapped = [name for part in ("conv2", "bn2", "conv1", "bn1") for name in first if part in name]
    norms = [name for part in ("bn1", "conv1", "bn2", "conv2") for name in first if part in name]
    shortcut = [name for name in names if name.startswith("q2.0.downsample")]
    others = [name for name in names if name not in shortcut]
    before = others.index("q2.0.conv1.weight")
    early = [*others[:before], *shortcut, *others[before:]]
    assert fitted("resnet20", weights, tmp_path).how == "by the order of modules"
    for content in (moved(swapped), moved(norms), {name: weights[name] for name in early}):
        with pytest.raises(UserError, match=r"^unknown names, .* leaves several ways"):
            fitted("resnet20", content, tmp_path)


def test_both_kinds_of_shortcut_are_tried(tmp_path: Path) -> None:
    for built in ("resnet20_zeropad-eca_x0.5", "resnet20-eca_x0.5", "resnet20_zeropad_x2"):
        weights = create_model(built, 10, CIFAR).state_dict()
        assert fitted(built.replace("_zeropad", ""), weights, tmp_path).model == built
    weights = create_model("resnet20", 10, CIFAR).state_dict()
    with pytest.raises(UserError, match=r"^a resnet20, asked for resnet20_zeropad "):
        fitted("resnet20_zeropad", weights, tmp_path)
