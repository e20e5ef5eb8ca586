"""Names, stages and initialisation of the own architectures."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from trainables.errors import UserError
from trainables.models import canonical_name, create_model, describe_models, output_shapes
from trainables.models.registry import FAMILIES

CIFAR = (3, 32, 32)


def stages_of(name: str, shape: tuple[int, int, int] = CIFAR) -> tuple[tuple[int, int, int], ...]:
    with torch.device("meta"):
        return output_shapes(create_model(name, 10, shape), shape).stages


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet20", ((16, 32, 32), (32, 16, 16), (64, 8, 8))),
        ("resnet8x4", ((64, 32, 32), (128, 16, 16), (256, 8, 8))),
        ("resnet50", ((256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4))),
        ("wrn_16_2", ((32, 32, 32), (64, 16, 16), (128, 8, 8))),
        ("mobilenetv2", ((24, 32, 32), (32, 16, 16), (96, 8, 8), (1280, 4, 4))),
        ("mobilenetv2-minus5", ((24, 32, 32), (32, 16, 16), (96, 8, 8))),
        ("mobilenetv2-minus17", ((16, 32, 32),)),
        ("mobilenetv2_s2", ((24, 16, 16), (32, 8, 8), (96, 4, 4), (1280, 2, 2))),
        ("vgg13", ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2))),
    ],
)
def test_stages(name: str, stages: tuple[tuple[int, int, int], ...]) -> None:
    assert stages_of(name) == stages


def test_activation_of_wide_resnet_stages() -> None:
    torch.manual_seed(0)
    first, second, third = create_model("wrn_10_1", 10, CIFAR).eval()(torch.randn(2, *CIFAR)).stages
    assert first.min() < 0
    assert second.min() < 0
    assert third.min() == 0


@pytest.mark.parametrize("name", ["resnet8", "resnet18_x0.125", "vgg11_x0.125"])
def test_stages_behind_their_relu(name: str) -> None:
    torch.manual_seed(0)
    for stage in create_model(name, 10, CIFAR).eval()(torch.randn(2, *CIFAR)).stages:
        assert stage.min() == 0


def test_zero_padded_shortcut_keeps_channels_in_the_middle() -> None:
    block = create_model("resnet8_zeropad", 10, CIFAR).get_submodule("layer2.0.downsample")
    x = torch.randn(1, 16, 4, 4)
    out = block(x)
    assert out.shape == (1, 32, 2, 2)
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2])
    assert out[:, :8].abs().sum() == 0
    assert out[:, 24:].abs().sum() == 0


def test_dropout_of_vgg_only_on_larger_maps() -> None:
    small, large = (
        create_model("vgg11_x0.125", 10, CIFAR),
        create_model("vgg11_x0.125", 10, (3, 64, 64)),
    )
    rates = [
        [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
        for model in (small, large)
    ]
    assert rates == [[0.0], [0.5]]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("resnet20", "resnet20"),
        ("resnet20_x1.0", "resnet20"),
        ("resnet20_x0.50", "resnet20_x0.5"),
        ("resnet20_x0.5_x0.5", "resnet20_x0.25"),
        ("resnet20_zeropad_x2", "resnet20_zeropad_x2"),
        ("resnet8x4_x0.5", "resnet8x4_x0.5"),
        ("wrn_16_2.0", "wrn_16_2"),
        ("wrn_16_2_x0.25", "wrn_16_0.5"),
        ("mobilenetv2-minus0", "mobilenetv2"),
        ("mobilenetv2-minus5_x0.5", "mobilenetv2-minus5_x0.5"),
        ("mobilenetv2_s2_x0.5", "mobilenetv2_s2_x0.5"),
        ("vgg16_x0.125", "vgg16_x0.125"),
        ("resnet18-eca_x0.50", "resnet18-eca_x0.5"),
        ("resnet20_zeropad-eca_last_x1", "resnet20_zeropad-eca_last"),
        ("resnet32x4-eca_parallel_x0.5_x0.5", "resnet32x4-eca_parallel_x0.25"),
        ("timm:resnet18", "timm:resnet18"),
    ],
)
def test_canonical_names(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical
    assert canonical_name(canonical) == canonical


def test_names_that_are_one_architecture_build_the_same_network() -> None:
    networks = []
    for name in ("wrn_10_2_x0.25", "wrn_10_0.5"):
        torch.manual_seed(0)
        networks.append(create_model(name, 10, CIFAR).state_dict())
    assert networks[0].keys() == networks[1].keys()
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnt20", "resnet20"),
        ("resnet21", "resnet2"),
        ("wrn-16-2", "wrn_16_2"),
        ("wrn_18_2", "6n \\+ 4"),
        ("wrn_16_0", "above 0"),
        ("resnet20_x0", "above 0"),
        ("resnet18-ecca", "resnet18-eca"),
        ("resnet18-eca-eca_last", "resnet18-eca_last"),
        ("resnet18_x0.5-eca", "resnet18-eca"),
        ("wrn_16_2-eca", "unknown model"),
        ("mobilenetv2-minus18", "17"),
        ("timm:resnet1899", "resnet18"),
        ("torchvision:resnet1899", "resnet18"),
        ("keras:resnet18", "unknown model"),
    ],
)
def test_names_that_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        create_model(name, 10, CIFAR)


def test_images_too_small_for_vgg() -> None:
    with pytest.raises(UserError, match=r"vgg16.*32x32.*31x40"):
        create_model("vgg16", 10, (3, 31, 40))


def test_no_classes_or_no_pixels() -> None:
    with pytest.raises(UserError, match="0 classes"):
        create_model("resnet20", 0, CIFAR)
    with pytest.raises(UserError, match="images"):
        create_model("resnet20", 10, (3, 0, 32))


def test_descriptions_are_true() -> None:
    records = describe_models()
    assert len(records) == len([*FAMILIES]) + 2
    for record in records:
        assert record.description
        assert record.paper
        with torch.device("meta"):
            create_model(record.example, 10, (3, 64, 64))


def test_every_listed_member_builds() -> None:
    for family in FAMILIES.values():
        for member in family.members:
            assert canonical_name(member) == member
            with torch.device("meta"):
                create_model(member, 10, CIFAR)


def test_initialisation_is_kaiming_fan_out() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_x2", 10, CIFAR)
    weight = model.get_submodule("layer3.0.conv1").weight
    assert weight.shape[:2] == (128, 64)
    expected = (2 / (128 * 9)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_importing_the_models_leaves_other_libraries_alone() -> None:
    code = "import sys, trainables.models; print({'timm', 'torchvision'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
