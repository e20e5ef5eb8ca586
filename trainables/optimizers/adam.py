"""Adam (Kingma & Ba, ICLR 2015, arXiv 1412.6980) with an L2 penalty, as PyTorch has it."""

from collections.abc import Sequence

import torch
from torch import nn

from trainables.config import TrialConfig


def adam(
    config: TrialConfig, weights: Sequence[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""
    return torch.optim.Adam(
        weights,
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
