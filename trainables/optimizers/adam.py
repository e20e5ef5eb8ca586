"""Adam (Kingma & Ba, ICLR 2015, arXiv 1412.6980) with an L2 penalty, as PyTorch has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from trainables.config import TrialConfig
from trainables.optimizers.rule import Rule, Weight
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamConfig:
    """Of Adam and AdamW; the defaults are the paper's."""

    beta1: float = setting(
        0.9,
        "decay of the mean of gradients",
        at_least=0,
        at_most=0.9999,
        search=(0.8, 0.98),
    )
    beta2: float = setting(
        0.999,
        "decay of the mean of squared gradients",
        at_least=0,
        at_most=0.99999,
        search=(0.9, 0.999),
    )
    eps: float = setting(
        1e-8,
        "added to the root of that mean",
        above=0,
        search=(1e-10, 1e-2),
        log=True,
    )


class Adam(Rule):
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""

    Config = AdamConfig
    steps: ClassVar[type[torch.optim.Adam]] = torch.optim.Adam

    def build(
        self, trial: TrialConfig, weights: Sequence[Weight], device: torch.device
    ) -> torch.optim.Optimizer:
        return self.steps(
            [weight.parameter for weight in weights],
            lr=trial.lr,
            betas=(self.config.beta1, self.config.beta2),
            eps=self.config.eps,
            weight_decay=trial.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
