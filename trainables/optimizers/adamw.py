"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101)."""

from collections.abc import Sequence

import torch

from trainables.config import TrialConfig
from trainables.optimizers.adam import AdamConfig
from trainables.optimizers.rule import Rule, Weight


class AdamW(Rule):
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""

    Config = AdamConfig

    def build(
        self, trial: TrialConfig, weights: Sequence[Weight], device: torch.device
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [weight.parameter for weight in weights],
            lr=trial.lr,
            betas=(self.config.beta1, self.config.beta2),
            eps=self.config.eps,
            weight_decay=trial.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
