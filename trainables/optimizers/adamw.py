"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101)."""

import torch

from trainables.optimizers.adam import Adam


class AdamW(Adam):
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""

    steps = torch.optim.AdamW
