"""Residual networks for small images: ResNet-6n+2 with projection or zero-padded shortcuts.

The classes here also build the ResNet-18 family (`trainables.models.resnet18`), and both
families with channel attention (`trainables.models.eca`).

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
section 4.2. Parameter names follow torchvision, so that published CIFAR weights load.
"""

import itertools
import re
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.eca import ECA, VARIANTS, AdditiveECA, kernel_size
from trainables.models.family import Design, Family, ImageShape, width_ladder, with_width
from trainables.models.layers import ResidualStage, Sum, conv, initialise, scaled
from trainables.models.outputs import Network, Outputs

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
        self.inputs, self.outputs = inputs, outputs
        self.source: Tensor | None
        self.register_buffer("source", None, persistent=False)
        self._order: list[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        subsampled = x[:, :, :: self.stride, :: self.stride]
        if self.source is not None:  # channels were cut
            return F.pad(subsampled, (0, 0, 0, 0, 0, 1)).index_select(1, self.source)
        return F.pad(subsampled, (0, 0, 0, 0, self.before, self.behind))

    def keep(self, outputs: Tensor, inputs: Tensor, device: torch.device) -> None:
        """Keeps these channels out and in, ``[n]`` each, positions in growing order. One whose
        input is cut becomes a channel of zeros. ``device``: of the network."""
        order = self._order  # by hand, since a network on the meta device has no values
        if order is None:
            own = [channel - self.before for channel in range(self.outputs)]
            order = [at if 0 <= at < self.inputs else self.inputs for at in own]
        places = {old: new for new, old in enumerate(inputs.tolist())}
        self._order = [places.get(order[at], len(places)) for at in outputs.tolist()]
        self.source = torch.tensor(self._order, device=device)
        self.inputs, self.outputs = len(inputs), len(outputs)


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
        self.outputs = width
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.eca: nn.Module = nn.Identity()
        self.downsample = _shortcut(inputs, width, stride, zero_pad)
        self.sum = Sum()
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, shortcuts: list[Tensor] | None = None) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.eca(self.bn2(self.conv2(out)))
        shortcut = self.downsample(x)
        if shortcuts is not None:
            shortcuts.append(shortcut)
        return self.relu2(self.sum(out, shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the 3x3 convolution carries the stride."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, zero_pad: bool) -> None:
        super().__init__()
        self.outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = conv(width, self.outputs, 1)
        self.bn3 = nn.BatchNorm2d(self.outputs)
        self.eca: nn.Module = nn.Identity()
        self.downsample = _shortcut(inputs, self.outputs, stride, zero_pad)
        self.sum = Sum()
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, shortcuts: list[Tensor] | None = None) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.eca(self.bn3(self.conv3(out)))
        shortcut = self.downsample(x)
        if shortcuts is not None:
            shortcuts.append(shortcut)
        return self.relu3(self.sum(out, shortcut))


Block = BasicBlock | Bottleneck


class ResNet(Network):
    """A 3x3 stem at full resolution, stages of residual blocks, global average pooling.

    Args:
        block: the kind of block.
        depths: number of blocks of every stage.
        widths: width of every stage; all but the first halve the resolution.
        stem: channels of the first convolution.
        zero_pad: shortcuts without parameters instead of projections.
        attention: where there is channel attention, a key of `eca.VARIANTS`; empty: nowhere.
        classes: number of logits.
        in_channels: channels of the images.
    """

    def __init__(
        self,
        *,
        block: type[Block],
        depths: Sequence[int],
        widths: Sequence[int],
        stem: int,
        zero_pad: bool = False,
        attention: str = "",
        classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        channels, stages = stem, list[list[Block]]()
        self.stage_names = [f"layer{i + 1}" for i in range(len(depths))]
        for i, (name, depth, width) in enumerate(
            zip(self.stage_names, depths, widths, strict=True)
        ):
            strides = [1 if i == 0 else 2] + [1] * (depth - 1)
            blocks: list[Block] = []
            for stride in strides:
                blocks.append(block(channels, width, stride, zero_pad))
                channels = width * block.expansion
            self.add_module(name, ResidualStage(*blocks))
            stages.append(blocks)
        if attention:
            _attend(attention, stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        x = self.relu(self.bn1(self.conv1(images)))
        stages: list[Tensor] = []
        shortcuts: list[Tensor] = []
        for name in self.stage_names[:depth]:
            x = self.get_submodule(name)(x, shortcuts)
            stages.append(x)
        if depth is not None:
            return Outputs.early(stages, shortcuts)
        embedding = self.pool(x).flatten(1)
        return Outputs(self.classifier(embedding), embedding, tuple(stages), tuple(shortcuts))


def _attend(variant: str, stages: Sequence[Sequence[Block]]) -> None:
    """Gives those blocks attention that have it in a variant of `eca.VARIANTS`."""
    if variant == "-eca_parallel":
        for block in stages[0]:
            block.downsample = nn.Sequential(block.downsample, AdditiveECA())
        return
    for block in itertools.chain(*stages) if variant == "-eca" else stages[-1][:1]:
        block.eca = ECA(kernel_size(block.outputs))


def _parse(attention: str, base: str, width: float) -> Design | None:
    match = re.fullmatch(rf"resnet(\d+)(x4|_zeropad)?{attention}", base)
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
            attention=attention,
            classes=classes,
            in_channels=image_shape[0],
        )

    return Design(with_width(base, width), build)


def _name(attention: str, depth: int, width: float) -> str:
    return with_width(f"resnet{depth}{attention}", width)


def _family(attention: str, members: tuple[str, ...], description: str, paper: str) -> Family:
    return Family(
        name=f"resnet{attention}",
        pattern=f"resnet{{8,14,20,32,44,56,110}}[_zeropad]{attention}, resnet{{8,32}}x4{attention}",
        description=description,
        paper=paper,
        example=f"resnet20{attention}",
        members=members,
        parse=partial(_parse, attention),
        ladder=width_ladder(partial(_name, attention), _LADDER_DEPTHS, 16, 64),
    )


FAMILY = _family(
    "",
    (
        *(f"resnet{depth}" for depth in _DEPTHS),
        *(f"resnet{depth}_zeropad" for depth in _DEPTHS),
        *(f"resnet{depth}x4" for depth in _WIDE_DEPTHS),
    ),
    "CIFAR ResNet of 6n+2 layers, 16-32-64 channels; shortcuts project or pad zeros",
    "He et al., CVPR 2016, section 4.2; x4: Tian et al., ICLR 2020 (CRD)",
)
# Families of their own, so that a compression factor never trades the attention for size.
ECA_FAMILIES = tuple(
    _family(
        attention,
        tuple(f"resnet{depth}{attention}" for depth in _DEPTHS),
        f"CIFAR ResNet, {meaning}",
        "He et al., CVPR 2016; ECA: Wang et al., CVPR 2020",
    )
    for attention, meaning in VARIANTS.items()
)
