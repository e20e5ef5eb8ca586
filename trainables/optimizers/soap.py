"""SOAP: Adam in the eigenbasis of Shampoo's matrices (Vyas et al., ICLR 2025, arXiv 2409.11321).

Of a weight of k axes one keeps for each axis the mean of the gradient's products with itself over
the other axes. Every ``precondition_every`` steps one step of the power method and a QR
decomposition turn its eigenvectors; between them Adam runs in their basis. Biases, gains and other
vectors have Adam without a basis, which a row lists as ``adamw``. Weight decay is decoupled.

The steps are pytorch_optimizer's, which follow the authors' code: of a weight's first gradient the
bases are made, and nothing is moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainables.config import TrialConfig
from trainables.optimizers.rule import Rule, Weight
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class SOAPConfig:
    """The defaults are those of the authors' code."""

    beta1: float = setting(
        0.95, "decay of the mean of gradients", at_least=0, at_most=0.9999, search=(0.8, 0.98)
    )
    beta2: float = setting(
        0.95,
        "decay of the mean of squared gradients, and of the axes' matrices",
        at_least=0,
        at_most=0.99999,
        search=(0.9, 0.999),
    )
    eps: float = setting(
        1e-8, "added to the root of the squares", above=0, search=(1e-10, 1e-2), log=True
    )
    precondition_every: int = setting(
        10, "steps from one basis to the next", at_least=1, search=(1, 100), log=True
    )
    max_dim: int = setting(10_000, "longest axis that has a basis of its own", at_least=1)


class SOAP(Rule):
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""

    Config = SOAPConfig

    def build(
        self, trial: TrialConfig, weights: Sequence[Weight], device: torch.device
    ) -> torch.optim.Optimizer:
        from trainables.optimizers.soap_steps import SOAPSteps

        return SOAPSteps([weight.parameter for weight in weights], trial, self.config)
