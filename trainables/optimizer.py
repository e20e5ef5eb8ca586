"""The update rule of a training."""

from collections.abc import Sequence

import torch
from torch import nn

from trainables.config import TrialConfig


def make_optimizer(
    config: TrialConfig, parameters: Sequence[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer that a config asks for, over some weights on ``device``."""
    fused = device.type in ("cpu", "cuda")  # one pass over all weights
    if config.optimizer != "sgd":
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    optimizer = torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )
    if config.momentum:
        # The fused form cannot do with buffers that come later, as those of weights do that
        # a term which is alone leaves out. A buffer of zeros is what it would start from.
        for weight in parameters:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer
