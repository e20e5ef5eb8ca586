"""ResNet-18 to ResNet-152 with the stem that small images want: 3x3, stride 1, no max-pooling.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1.
The bottleneck carries its stride on the 3x3 convolution (torchvision's "v1.5").
"""

import re
from functools import partial

from trainables.models.eca import VARIANTS
from trainables.models.family import Design, Family, ImageShape, width_ladder, with_width
from trainables.models.layers import scaled
from trainables.models.resnet import BasicBlock, Block, Bottleneck, ResNet

_BLOCKS: dict[int, tuple[type[Block], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def _parse(attention: str, base: str, width: float) -> Design | None:
    match = re.fullmatch(rf"resnet(\d+){attention}", base)
    if match is None or int(match[1]) not in _BLOCKS:
        return None
    block, depths = _BLOCKS[int(match[1])]

    def build(classes: int, image_shape: ImageShape) -> ResNet:
        return ResNet(
            block=block,
            depths=depths,
            widths=[scaled(channels, width) for channels in (64, 128, 256, 512)],
            stem=scaled(64, width),
            attention=attention,
            classes=classes,
            in_channels=image_shape[0],
        )

    return Design(with_width(base, width), build)


def _name(attention: str, depth: int, width: float) -> str:
    return with_width(f"resnet{depth}{attention}", width)


def _family(attention: str, description: str, paper: str) -> Family:
    return Family(
        name=f"resnet18{attention}",
        pattern=f"resnet{{18,34,50,101,152}}{attention}",
        description=description,
        paper=paper,
        example=f"resnet18{attention}",
        members=tuple(f"resnet{depth}{attention}" for depth in _BLOCKS),
        parse=partial(_parse, attention),
        ladder=width_ladder(partial(_name, attention), (18, 34, 50), 64, 128),
    )


FAMILY = _family(
    "",
    "ImageNet ResNet, 64-128-256-512 channels, with a 3x3 stem for small images",
    "He et al., CVPR 2016, table 1",
)
ECA_FAMILIES = tuple(
    _family(
        attention,
        f"ImageNet ResNet with a 3x3 stem, {meaning}",
        "He et al., CVPR 2016; ECA: Wang et al., CVPR 2020",
    )
    for attention, meaning in VARIANTS.items()
)
