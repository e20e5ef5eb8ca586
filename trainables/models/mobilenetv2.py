"""MobileNetV2 for small images, whole or without its last blocks.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
table 2. Two layouts of the CIFAR literature:

- ``mobilenetv2``: stem and 24-channel stage at stride 1, ReLU6, dropout. Removing the last L
  of its 19 features (stem, 17 blocks, last 1x1 convolution) gives the students of Hernandez
  et al. (arXiv 2503.13008): ``mobilenetv2-minus5``.
- ``mobilenetv2_s2``: stem at stride 2, ReLU, and a 1x1 expansion even where it expands by 1
  (the CRD protocol of Tian et al., ICLR 2020, uses it at width 0.5).
"""

import re
from functools import partial

from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.family import Design, Family, ImageShape, with_width
from trainables.models.layers import Sum, conv, initialise, scaled
from trainables.models.outputs import Network, Outputs

REMOVABLE = 17
"""How many of the 19 features may be removed from the end."""

# Expansion, channels, repeats, stride of the first repeat; the 24-channel stage keeps stride 1.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class ConvNormAct(nn.Sequential):
    """Convolution, BatchNorm, activation."""

    def __init__(
        self,
        act: type[nn.Module],
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        groups: int = 1,
    ) -> None:
        super().__init__(
            conv(inputs, outputs, kernel, stride, groups),
            nn.BatchNorm2d(outputs),
            act(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise by 3x3, project by 1x1 without activation."""

    def __init__(
        self,
        act: type[nn.Module],
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        always_expand: bool,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = expansion != 1 or always_expand
        self.conv = nn.Sequential(
            *([ConvNormAct(act, inputs, hidden, 1, 1)] if expand else []),
            ConvNormAct(act, hidden, hidden, 3, stride, groups=hidden),
            conv(hidden, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.sum = Sum() if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.sum is None else self.sum(self.conv(x), x)


class MobileNetV2(Network):
    """MobileNetV2 with global average pooling and one linear layer behind the features it keeps.

    Stages: the last feature at each resolution.

    Args:
        stem_stride: stride of the first convolution; 2 selects the ``_s2`` layout.
        width: multiplier of all channels; the last convolution keeps 1280 below 1 (section 4.1).
        minus: number of features removed from the end, 0 to `REMOVABLE`.
        classes: number of logits.
        in_channels: channels of the images.
    """

    def __init__(
        self, *, stem_stride: int, width: float, minus: int, classes: int, in_channels: int
    ) -> None:
        super().__init__()
        second_layout = stem_stride == 2
        act: type[nn.Module] = nn.ReLU if second_layout else nn.ReLU6
        channels = scaled(32, width)
        features: list[nn.Module] = [ConvNormAct(act, in_channels, channels, 3, stem_stride)]
        outputs, strides = [channels], [stem_stride]
        for expansion, base, repeats, first_stride in _BLOCKS:
            for stride in [first_stride] + [1] * (repeats - 1):
                block = InvertedResidual(
                    act, outputs[-1], scaled(base, width), stride, expansion, second_layout
                )
                features.append(block)
                outputs.append(scaled(base, width))
                strides.append(stride)
        outputs.append(scaled(1280, max(width, 1)))
        strides.append(1)
        features.append(ConvNormAct(act, outputs[-2], outputs[-1], 1, 1))

        kept = len(features) - minus
        self.features = nn.Sequential(*features[:kept])
        # A stage ends before the next stride, and at the last feature.
        self.stage_ends = [i for i in range(kept - 1) if strides[i + 1] == 2] + [kept - 1]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.0 if second_layout else 0.2)
        self.classifier = nn.Linear(outputs[kept - 1], classes)
        initialise(self, linear_std=0.01)

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        x, stages = images, []
        for i, feature in enumerate(self.features):
            x = feature(x)
            if i in self.stage_ends:
                stages.append(x)
                if len(stages) == depth:
                    return Outputs.early(stages)
        embedding = self.dropout(self.pool(x).flatten(1))
        return Outputs(self.classifier(embedding), embedding, tuple(stages))


def _parse(family: str, stem_stride: int, base: str, width: float) -> Design | None:
    match = re.fullmatch(rf"{family}(?:-minus(\d+))?", base)
    if match is None:
        return None
    minus = int(match[1] or 0)
    if minus > REMOVABLE:
        raise UserError(f"model '{base}': from 0 to {REMOVABLE} blocks can be removed, not {minus}")

    def build(classes: int, image_shape: ImageShape) -> MobileNetV2:
        return MobileNetV2(
            stem_stride=stem_stride,
            width=width,
            minus=minus,
            classes=classes,
            in_channels=image_shape[0],
        )

    return Design(with_width(truncated(family, minus), width), build)


def truncated(family: str, minus: int) -> str:
    """The name of ``mobilenetv2`` or ``mobilenetv2_s2`` without its last ``minus`` features."""
    return f"{family}-minus{minus}" if minus else family


def _family(name: str, stem_stride: int, description: str, paper: str, example: str) -> Family:
    chain = tuple(truncated(name, minus) for minus in range(REMOVABLE, -1, -1))
    return Family(
        name=name,
        pattern=f"{name}[-minus{{0..{REMOVABLE}}}]",
        description=description,
        paper=paper,
        example=example,
        members=(name, *(truncated(name, minus) for minus in range(3, REMOVABLE + 1, 2))),
        parse=partial(_parse, name, stem_stride),
        ladder=(chain,),
    )


FAMILY = _family(
    "mobilenetv2",
    1,
    "MobileNetV2 with a stride-1 stem, whole or without its last blocks",
    "Sandler et al., CVPR 2018; truncation: Hernandez et al., arXiv 2503.13008",
    "mobilenetv2-minus5",
)
FAMILY_S2 = _family(
    "mobilenetv2_s2",
    2,
    "MobileNetV2 with a stride-2 stem and ReLU, as the CRD protocol uses it",
    "Sandler et al., CVPR 2018; layout: Tian et al., ICLR 2020 (CRD)",
    "mobilenetv2_s2_x0.5",
)
