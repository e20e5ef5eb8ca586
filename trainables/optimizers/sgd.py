"""SGD: stochastic gradient descent, with momentum and an L2 penalty."""

from collections.abc import Sequence

import torch
from torch import nn

from trainables.config import TrialConfig


def sgd(
    config: TrialConfig, weights: Sequence[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""
    optimizer = torch.optim.SGD(
        weights,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one pass over all weights
    )
    if config.momentum:
        # The fused form cannot do with buffers that come later, as those of weights do that
        # a term which is alone leaves out. A buffer of zeros is what it would start from.
        for weight in weights:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer
