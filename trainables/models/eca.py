"""Efficient channel attention, and where a ResNet can have it.

Source: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
Networks", CVPR 2020, arXiv 1910.03151. With GAP the average over positions, C channels and a
1-D convolution without bias that runs along them,

    ECA(x) = x · σ(conv1d_k(GAP(x)))        k = |log2(C) / γ + b / γ|_odd, γ = 2, b = 1

where an even whole part becomes the next odd number: 64 channels give 3, 128 to 1024 give 5,
2048 give 7. It stands on the residual branch, behind the last BatchNorm and before the sum. The
released networks set k by hand (3 in ResNet-18); we follow the paper's rule.

Two variants come from Boulaouaney, "Skip-Connection-KD-with-ECA", GitHub 2023. There the block
that has the attention of ``eca_last`` lost its stride, which made the network 1.7 times as
costly; here it keeps it, so that the variants differ by the attention alone.
"""

import math

from torch import Tensor, nn

VARIANTS = {
    "-eca": "efficient channel attention (ECA) in every block",
    "-eca_last": "ECA in the first block of the last stage alone",
    "-eca_parallel": "ECA added to the shortcuts of the first stage",
}
"""What a suffix of a ResNet's name means."""


def kernel_size(channels: int) -> int:
    """The paper's k for a number of channels, at least 3.

    Below 8 channels the rule gives 1, at which no channel would see another; timm has the same
    bound.
    """
    whole = int((math.log2(channels) + 1) / 2)
    return max(3, whole if whole % 2 else whole + 1)


class ECA(nn.Module):
    """x · σ(conv1d_k(GAP(x))).

    Args:
        kernel: k, odd.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """σ(conv1d_k(GAP(x))) of maps ``[B, C, H, W]``: ``[B, C, 1, 1]``, in (0, 1)."""
        means = x.mean(dim=(2, 3)).unsqueeze(1)
        gate: Tensor = self.conv(means).sigmoid()
        return gate.transpose(1, 2).unsqueeze(3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class AdditiveECA(ECA):
    """x + σ(conv1d_k(GAP(x))), as "Skip-Connection-KD-with-ECA" has it on shortcuts, k = 3."""

    def __init__(self) -> None:
        super().__init__(kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x)
