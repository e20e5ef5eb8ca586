"""Pieces that own architectures share: convolutions, stages, width scaling, initialisation."""

from torch import Tensor, nn


class ResidualStage(nn.Sequential):
    """Residual blocks, one behind the other; the first one changes the shapes."""

    def forward(self, x: Tensor, shortcuts: list[Tensor] | None = None) -> Tensor:
        """The output of the last block.

        Args:
            x: ``[B, C, H, W]``.
            shortcuts: takes the shortcut of the first block for `Outputs`; None: nobody asks.
        """
        first, *rest = self
        x = first(x, shortcuts)
        for block in rest:
            x = block(x)
        return x


class Sum(nn.Module):
    """Where a residual block adds its shortcut: a module, so that somebody can add otherwise."""

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return x + shortcut


def scaled(channels: int, width: float) -> int:
    """``channels`` times the width multiplier, rounded, at least one channel."""
    return max(1, round(channels * width))


class Subsampling(nn.Conv2d):
    """A strided 1x1 convolution that leaves out pixels first: the same sums.

    The usual way ends the process, or goes on with wrong numbers: of few input channels in
    channels-last layout, the weight gradient of oneDNN writes beyond its memory (its issue 6035;
    fewer than 8 channels with AVX2, 16 with AVX-512; in PyTorch 2.11 to 2.15 at least). Not for
    networks that are wider, which it would make slower.
    """

    LEAST_SAFE = 16

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.stride
        return nn.functional.conv2d(input[:, :, ::rows, ::columns], weight, bias)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the resolution at stride 1."""
    made = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    subsample(made)
    return made


def subsample(made: nn.Conv2d) -> None:
    """Makes a convolution a `Subsampling` where it has to be one."""
    strided = made.kernel_size == (1, 1) and max(made.stride) > 1 and made.padding == (0, 0)
    plain = made.groups == 1 and made.bias is None
    if strided and plain and made.in_channels < Subsampling.LEAST_SAFE:
        made.__class__ = Subsampling  # whatever else is known of it stays


def initialise(network: nn.Module, linear_std: float | None = None) -> None:
    """Initialise in place, from torch's global random generator.

    Convolutions: Kaiming normal, fan-out (He et al. 2015); BatchNorm: weight 1, bias 0.

    Args:
        network: what to initialise.
        linear_std: standard deviation of the linear layers' weights, their biases then being 0
            (MobileNetV2 and VGG use 0.01); None keeps PyTorch's uniform default.
    """
    for module in network.modules():
        if any(weight.is_meta for weight in module.parameters(recurse=False)):
            continue  # nothing to initialise; counting parameters should not wait for it
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)
