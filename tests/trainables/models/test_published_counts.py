"""Parameter counts and MACs against the figures that papers and repositories print."""

import pytest
import torch

from trainables.compression.measure import count_macs, count_params
from trainables.models import create_model
from trainables.models.outputs import Network

CIFAR = (3, 32, 32)
VOC = (3, 227, 227)

# Name, parameters with 100 classes, with 10 classes.
CIFAR_COUNTS = [
    ("resnet8", 83_892, 78_042),
    ("resnet14", 181_108, 175_258),
    ("resnet20", 278_324, 272_474),
    ("resnet32", 472_756, 466_906),
    ("resnet44", 667_188, 661_338),
    ("resnet56", 861_620, 855_770),
    ("resnet110", 1_736_564, 1_730_714),
    ("resnet8x4", 1_233_540, None),
    ("resnet32x4", 7_433_860, None),
    ("wrn_16_1", 180_916, 175_066),
    ("wrn_16_2", 703_284, 691_674),
    ("wrn_16_4", 2_772_020, 2_748_890),
    ("wrn_40_1", 569_780, 563_930),
    ("wrn_40_2", 2_255_156, 2_243_546),
    ("wrn_40_4", 8_972_340, 8_949_210),
    ("resnet18", 11_220_132, 11_173_962),
    ("resnet34", None, 21_282_122),
    ("resnet50", 23_705_252, 23_520_842),
    ("resnet101", None, 42_512_970),
    ("resnet152", None, 58_156_618),
    ("mobilenetv2", None, 2_236_682),
    ("mobilenetv2-minus3", None, 1_019_402),
    ("mobilenetv2-minus5", None, 543_498),
    ("mobilenetv2-minus7", None, 306_954),
    ("mobilenetv2-minus9", None, 185_738),
    ("mobilenetv2-minus11", None, 77_194),
    ("mobilenetv2-minus13", None, 40_970),
    ("mobilenetv2-minus15", None, 16_042),
    ("mobilenetv2-minus17", None, 1_994),
    ("mobilenetv2_s2", 2_353_060, 2_237_770),
    ("mobilenetv2_s2_x0.5", 812_836, 697_546),
    ("vgg13", 9_462_180, None),
    ("torchvision:resnet18", None, 11_181_642),
    ("torchvision:mobilenet_v2", None, 2_236_682),
]
VOC_COUNTS = [
    ("vgg16", 15_224_916),
    ("vgg16_x0.5", 3_935_284),
    ("vgg16_x0.25", 1_048_356),
    ("vgg16_x0.125", 294_364),
]
# Millions, as printed. The zoo's table comes from a counter that adds BatchNorm's parameters and
# biases to the MACs, so it is met to 0.3 %; the MobileNetV2 depth table to its last digit.
ZOO_MACS = [
    ("resnet8", 100, 12.51),
    ("resnet20", 100, 40.82),
    ("resnet56", 100, 125.76),
    ("resnet110", 100, 253.16),
    ("wrn_16_1", 100, 26.66),
    ("wrn_16_2", 100, 101.12),
    ("wrn_16_4", 100, 392.64),
    ("wrn_40_1", 100, 83.29),
    ("wrn_40_2", 100, 327.62),
    ("wrn_40_4", 100, 1300),
    ("resnet18", 100, 555.48),
    ("resnet50", 10, 1297.8),
    ("mobilenetv2_s2", 100, 22.42),
    ("mobilenetv2_s2_x0.5", 100, 6.54),
]
DEPTH_MACS = [
    ("mobilenetv2", 87.98),
    ("mobilenetv2-minus3", 68.85),
    ("mobilenetv2-minus5", 58.70),
    ("mobilenetv2-minus7", 43.88),
    ("mobilenetv2-minus9", 36.36),
    ("mobilenetv2-minus11", 29.62),
    ("mobilenetv2-minus13", 23.56),
    ("mobilenetv2-minus15", 14.93),
    ("mobilenetv2-minus17", 1.70),
]
VOC_GMACS = [
    ("vgg16", 15.45),
    ("vgg16_x0.5", 3.89),
    ("vgg16_x0.25", 0.98),
    ("vgg16_x0.125", 0.25),
]


def on_meta(name: str, classes: int, shape: tuple[int, int, int]) -> Network:
    with torch.device("meta"):
        return create_model(name, classes, shape)


@pytest.mark.parametrize(("name", "hundred", "ten"), CIFAR_COUNTS)
def test_parameters_on_cifar(name: str, hundred: int | None, ten: int | None) -> None:
    for classes, published in ((100, hundred), (10, ten)):
        if published is not None:
            assert count_params(on_meta(name, classes, CIFAR)) == published


@pytest.mark.parametrize(("name", "published"), VOC_COUNTS)
def test_parameters_on_voc(name: str, published: int) -> None:
    assert count_params(on_meta(name, 20, VOC)) == published


def test_parameters_of_the_vision_transformer() -> None:
    # The published 86,095,762 counts the non-zero entries of trained weights; the architecture
    # has 2,424 more: 85,798,656 - 197 * 768 of ViT-B/16 at 224 pixels without its head, plus
    # 577 * 768 positions, plus a head of 10 classes.
    model = on_meta("timm:vit_base_patch16_384", 10, (3, 384, 384))
    assert count_params(model) == 85_798_656 + (577 - 197) * 768 + 10 * 769


@pytest.mark.parametrize(("name", "classes", "published"), ZOO_MACS)
def test_macs_of_the_zoo(name: str, classes: int, published: float) -> None:
    macs = count_macs(on_meta(name, classes, CIFAR), CIFAR) / 1e6
    assert macs == pytest.approx(published, rel=3e-3)


@pytest.mark.parametrize(("name", "published"), DEPTH_MACS)
def test_macs_of_truncated_mobilenets(name: str, published: float) -> None:
    assert round(count_macs(on_meta(name, 10, CIFAR), CIFAR) / 1e6, 2) == published


@pytest.mark.parametrize(("name", "published"), VOC_GMACS)
def test_macs_on_voc(name: str, published: float) -> None:
    macs = count_macs(on_meta(name, 20, VOC), VOC) / 1e9
    assert macs == pytest.approx(published, abs=0.006)
