"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101)."""

from collections.abc import Sequence

import torch
from torch import nn

from trainables.config import TrialConfig


def adamw(
    config: TrialConfig, weights: Sequence[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""
    return torch.optim.AdamW(
        weights,
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
