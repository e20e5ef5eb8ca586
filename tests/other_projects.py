"""Networks that compute what other projects' released code computes, and have its names."""

from torch import Tensor, nn
from torch.nn import functional as F


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


def eca18() -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, block_args={"attn_layer": "eca"})
