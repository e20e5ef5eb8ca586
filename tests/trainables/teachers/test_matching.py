"""Checkpoints of other projects: their names, their wrapping, their computation."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from other_projects import (
    Kuangliu,
    RepDistillerMobileNet,
    RepDistillerVGG,
    RepDistillerWRN,
    eca18,
    small_stem,
    small_strides,
)
from torch import Tensor, nn
from torchvision import models

from trainables.errors import UserError
from trainables.models import create_model
from trainables.models.family import with_width
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
def test_networks_of_other_projects(
    asked: str, built: str, theirs: Callable[[], nn.Module], certain: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = warm(theirs())
    content = {"epoch": 3, "model": network.state_dict(), "best_acc": 0.7}
    assert fitted(asked, network.state_dict(), tmp_path).model == built
    fit = fitted(asked, content, tmp_path)
    assert fit.model == built
    assert fit.certain is certain
    same_logits(network, fit)


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
    model = with_width(family.members[0], 0.5)
    network, weights = renamed(model, (r"^", "net.q"), ("conv", "kk"), ("layer", "zz"))
    fit = fitted(model, {"params": weights}, tmp_path)
    twin = model.replace("vgg11", "vgg11_gap")
    twins = f" ({twin} would fit as well)" if family.name == "vgg" else ""
    assert (fit.how, fit.certain) == ("by the order of modules" + twins, False)
    same_logits(lambda images: network(images).logits, fit)
    safetensors.torch.save_file({k: w.contiguous() for k, w in weights.items()}, tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"unknown names, such as .*not kept by safetensors"):
        fit_weights(model, read_checkpoint(str(tmp_path / "a.bin")), 10, CIFAR)


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
