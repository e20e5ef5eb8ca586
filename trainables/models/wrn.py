"""Wide residual networks.

Source: Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016. Dropout is left out, as in
the distillation literature.
"""

import re

from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.family import Design, Family, ImageShape, number, width_ladder
from trainables.models.layers import ResidualStage, Sum, conv, initialise, scaled
from trainables.models.outputs import Network, Outputs

_LADDER_DEPTHS = (10, 16, 22, 28, 40)


class PreActivationBlock(nn.Module):
    """BatchNorm-ReLU-convolution twice; where shapes change, the shortcut is a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else conv(inputs, outputs, 1, stride)
        self.sum = Sum()

    def forward(self, x: Tensor, shortcuts: list[Tensor] | None = None) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        if shortcuts is not None:
            shortcuts.append(shortcut)
        return self.sum(out, shortcut)


class WideResNet(Network):
    """WRN-depth-k: three groups of ``(depth - 4) / 6`` blocks of 16k, 32k and 64k channels.

    Stages: the outputs of groups 1 and 2 before activation, of group 3 after the last
    BatchNorm and ReLU.

    Args:
        depth: number of layers, 6n + 4.
        k: widen factor, also below 1; the stem has 16 channels, below 1 it narrows with k.
        classes: number of logits.
        in_channels: channels of the images.
    """

    def __init__(self, *, depth: int, k: float, classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        stem, *widths = scaled(16, min(k, 1)), *(scaled(channels, k) for channels in (16, 32, 64))
        self.conv1 = conv(in_channels, stem, 3)
        self.group1 = _group(stem, widths[0], blocks, stride=1)
        self.group2 = _group(widths[0], widths[1], blocks, stride=2)
        self.group3 = _group(widths[1], widths[2], blocks, stride=2)
        self.bn = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[2], classes)
        initialise(self)

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        x = self.conv1(images)
        stages: list[Tensor] = []
        shortcuts: list[Tensor] = []
        for group in (self.group1, self.group2, self.group3)[:depth]:
            x = group(x, shortcuts)
            if group is self.group3:
                x = self.relu(self.bn(x))
            stages.append(x)
        if depth is not None:
            return Outputs.early(stages, shortcuts)
        embedding = self.pool(x).flatten(1)
        return Outputs(self.classifier(embedding), embedding, tuple(stages), tuple(shortcuts))


def _group(inputs: int, outputs: int, blocks: int, stride: int) -> ResidualStage:
    first = PreActivationBlock(inputs, outputs, stride)
    rest = (PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return ResidualStage(first, *rest)


def _parse(base: str, width: float) -> Design | None:
    match = re.fullmatch(r"wrn_(\d+)_(\d+(?:\.\d+)?)", base)
    if match is None:
        return None
    depth, k = int(match[1]), float(match[2]) * width
    if depth < 10 or (depth - 4) % 6:
        raise UserError(f"model '{base}': depth must be 6n + 4 (10, 16, 22, ...), not {depth}")
    if k <= 0:
        raise UserError(f"model '{base}': widen factor must be above 0")

    def build(classes: int, image_shape: ImageShape) -> WideResNet:
        return WideResNet(depth=depth, k=k, classes=classes, in_channels=image_shape[0])

    return Design(_name(depth, k), build)


def _name(depth: int, k: float) -> str:
    return f"wrn_{depth}_{number(k)}"


FAMILY = Family(
    name="wrn",
    pattern="wrn_{depth}_{k}",
    description="wide ResNet of 6n+4 layers and widen factor k, which may be fractional",
    paper="Zagoruyko and Komodakis, BMVC 2016",
    example="wrn_16_2",
    members=tuple(f"wrn_{depth}_{k}" for depth in (16, 28, 40) for k in (1, 2, 4, 10)),
    parse=_parse,
    ladder=width_ladder(_name, _LADDER_DEPTHS, 16, 160),
)
