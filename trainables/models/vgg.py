"""VGG with BatchNorm and one linear layer.

Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, table 1 (A, B, D, E). The three linear layers are replaced by one on
the flattened last map, as in the CRD models (CIFAR, last map 1x1) and in Park et al.,
NeurIPS 2020 (VOC at 227 pixels, last map 7x7). Feature names follow torchvision's ``vgg*_bn``.

``vgg*_gap`` follows the released code of the CRD protocol (Tian et al., ICLR 2020): the last map
is averaged, and below 64 pixels the fourth pooling is left out, so that the last block of a CIFAR
net works on 4x4 positions. Its blocks are called as in the weight files of that code.
"""

import math
import re

from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.family import Design, Family, ImageShape, width_ladder, with_width
from trainables.models.layers import initialise, scaled
from trainables.models.outputs import Network, Outputs

# Convolutions of the five blocks; every block ends in a 2x2 max-pooling.
_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)
_SHRINK = 2 ** len(_WIDTHS)


class VGG(Network):
    """Five blocks of convolution-BatchNorm-ReLU and max-pooling, then one linear layer.

    Stages: the last feature of every block, before its pooling. The network is built for one
    image size, because the linear layer reads every position of the last map.

    Args:
        convs: number of convolutions of every block.
        width: multiplier of all channels.
        classes: number of logits.
        image_shape: ``(C, H, W)``, H and W at least 32.
    """

    def __init__(
        self, *, convs: tuple[int, ...], width: float, classes: int, image_shape: ImageShape
    ) -> None:
        super().__init__()
        channels, *size = image_shape
        layers: list[nn.Module] = []
        for depth, base in zip(convs, _WIDTHS, strict=True):
            for _ in range(depth):
                outputs = scaled(base, width)
                layers += [
                    nn.Conv2d(channels, outputs, 3, padding=1),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(inplace=True),
                ]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        positions = math.prod(side // _SHRINK for side in size)
        # On one position there is nothing redundant to drop; the CIFAR nets have no dropout.
        self.dropout = nn.Dropout(0.5 if positions > 1 else 0.0)
        self.classifier = nn.Linear(channels * positions, classes)
        initialise(self, linear_std=0.01)

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        x, stages = images, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                stages.append(x)
                if len(stages) == depth:
                    return Outputs.early(stages)
            x = layer(x)
        embedding = self.dropout(x.flatten(1))
        return Outputs(self.classifier(embedding), embedding, tuple(stages))


class AveragedVGG(Network):
    """The same blocks, and a linear layer on the average of the last map.

    Stages: the last feature at each resolution.

    Args:
        convs, width, classes, image_shape: as for `VGG`; H and W at least 32.
    """

    def __init__(
        self, *, convs: tuple[int, ...], width: float, classes: int, image_shape: ImageShape
    ) -> None:
        super().__init__()
        channels, *size = image_shape
        for number, (depth, base) in enumerate(zip(convs, _WIDTHS, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(depth):
                outputs = scaled(base, width)
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
                layers.append(nn.ReLU(inplace=True))
                channels = outputs
            self.add_module(f"block{number}", nn.Sequential(*layers))
        self.pools = (True, True, True, min(size) >= 64)
        self.pooling = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        initialise(self, linear_std=0.01)

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        x, stages = images, []
        for number, pooled in enumerate((*self.pools, True)):
            x = self.get_submodule(f"block{number}")(x)
            if pooled:
                stages.append(x)
                if len(stages) == depth:
                    return Outputs.early(stages)
                x = self.pooling(x) if number < len(self.pools) else x
        embedding = self.average(x).flatten(1)
        return Outputs(self.classifier(embedding), embedding, tuple(stages))


def _parse(base: str, width: float) -> Design | None:
    match = re.fullmatch(r"vgg(\d+)(_gap)?", base)
    if match is None or int(match[1]) not in _CONVS:
        return None
    convs = _CONVS[int(match[1])]
    kind = AveragedVGG if match[2] else VGG

    def build(classes: int, image_shape: ImageShape) -> VGG | AveragedVGG:
        if min(image_shape[1:]) < _SHRINK:
            raise UserError(
                f"model '{base}' needs images of at least {_SHRINK}x{_SHRINK} pixels, "
                f"not {image_shape[1]}x{image_shape[2]}"
            )
        return kind(convs=convs, width=width, classes=classes, image_shape=image_shape)

    return Design(with_width(base, width), build)


def _name(depth: int, width: float) -> str:
    return with_width(f"vgg{depth}", width)


FAMILY = Family(
    name="vgg",
    pattern="vgg{11,13,16,19}[_gap]",
    description="VGG with BatchNorm and a single linear layer on the flattened last map",
    paper="Simonyan and Zisserman, ICLR 2015",
    example="vgg13",
    members=tuple(f"vgg{depth}{kind}" for kind in ("", "_gap") for depth in _CONVS),
    parse=_parse,
    ladder=width_ladder(_name, tuple(_CONVS), 64, 128),
)
