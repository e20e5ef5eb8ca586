"""Residual networks for small images: ResNet-6n+2 with projection or zero-padded shortcuts.

The classes here also build the ResNet-18 family (`trainables.models.resnet18`).

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
section 4.2. Parameter names follow torchvision, so that published CIFAR weights load.
"""

import re
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.family import Design, Family, ImageShape, width_ladder, with_width
from trainables.models.layers import ZooNetwork, conv, initialise, scaled
from trainables.models.outputs import Outputs

_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
_LADDER_DEPTHS = (8, 14, 20, 32, 44, 56)
# "x4" nets of the CRD protocol: four times as wide behind a stem that is only doubled.
_WIDE_DEPTHS = (8, 32)


class ZeroPadShortcut(nn.Module):
    """The shortcut without parameters (option A): subsample, then pad channels with zeros.

    Args:
        inputs: channels in.
        outputs: channels out; the new ones stand half before, half behind the old ones.
        stride: step of the subsampling.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, self.before, self.behind))


def _shortcut(inputs: int, outputs: int, stride: int, zero_pad: bool) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if zero_pad:
        return ZeroPadShortcut(inputs, outputs, stride)
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ReLU after the sum."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, zero_pad: bool) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride, zero_pad)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the 3x3 convolution carries the stride."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, zero_pad: bool) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, zero_pad)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu3(out + self.downsample(x))


class ResNet(ZooNetwork):
    """A 3x3 stem at full resolution, stages of residual blocks, global average pooling.

    Args:
        block: the kind of block.
        depths: number of blocks of every stage.
        widths: width of every stage; all but the first halve the resolution.
        stem: channels of the first convolution.
        zero_pad: shortcuts without parameters instead of projections.
        classes: number of logits.
        in_channels: channels of the images.
    """

    def __init__(
        self,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        stem: int,
        zero_pad: bool = False,
        classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        channels = stem
        self.stage_names = [f"layer{i + 1}" for i in range(len(depths))]
        for i, (name, depth, width) in enumerate(
            zip(self.stage_names, depths, widths, strict=True)
        ):
            strides = [1 if i == 0 else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(channels, width, stride, zero_pad))
                channels = width * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Outputs:
        x = self.relu(self.bn1(self.conv1(images)))
        stages = []
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            stages.append(x)
        embedding = self.pool(x).flatten(1)
        return Outputs(self.classifier(embedding), embedding, tuple(stages))


def _parse(base: str, width: float) -> Design | None:
    match = re.fullmatch(r"resnet(\d+)(x4|_zeropad)?", base)
    if match is None or int(match[1]) not in (_WIDE_DEPTHS if match[2] == "x4" else _DEPTHS):
        return None
    depth, variant = int(match[1]), match[2]
    wide = 4 if variant == "x4" else 1

    def build(classes: int, image_shape: ImageShape) -> ResNet:
        return ResNet(
            block=BasicBlock,
            depths=[(depth - 2) // 6] * 3,
            widths=[scaled(channels * wide, width) for channels in (16, 32, 64)],
            stem=scaled(32 if wide == 4 else 16, width),
            zero_pad=variant == "_zeropad",
            classes=classes,
            in_channels=image_shape[0],
        )

    return Design(with_width(base, width), build)


def _name(depth: int, width: float) -> str:
    return with_width(f"resnet{depth}", width)


FAMILY = Family(
    name="resnet",
    pattern="resnet{8,14,20,32,44,56,110}[_zeropad], resnet{8,32}x4",
    description="CIFAR ResNet of 6n+2 layers, 16-32-64 channels; shortcuts project or pad zeros",
    paper="He et al., CVPR 2016, section 4.2; x4: Tian et al., ICLR 2020 (CRD)",
    example="resnet20",
    members=(
        *(f"resnet{depth}" for depth in _DEPTHS),
        *(f"resnet{depth}_zeropad" for depth in _DEPTHS),
        *(f"resnet{depth}x4" for depth in _WIDE_DEPTHS),
    ),
    parse=_parse,
    ladder=width_ladder(_name, _LADDER_DEPTHS, 16, 64),
)
