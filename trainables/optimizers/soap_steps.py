"""SOAP's optimizer: pytorch_optimizer's, with the steps of every weight counted by themselves."""

from collections.abc import Callable, Sequence
from typing import Any

from pytorch_optimizer import SOAP
from torch import nn

from trainables.config import TrialConfig
from trainables.optimizers.soap import SOAPConfig


class SOAPSteps(SOAP):
    """One group for each weight: the library counts the steps of groups.

    A weight whose first gradient comes late, as while a term is alone, would otherwise begin
    without the correction of its means.

    Args:
        weights: to train.
        trial: has ``lr`` and ``weight_decay``.
        config: of the rule.
    """

    param_groups: list[dict[str, Any]]

    def __init__(
        self, weights: Sequence[nn.Parameter], trial: TrialConfig, config: SOAPConfig
    ) -> None:
        super().__init__(
            [
                {"params": [weight], "rule": "soap" if _turned(weight, config) else "adamw"}
                for weight in weights
            ],
            lr=trial.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=trial.weight_decay,
            precondition_frequency=config.precondition_every,
            max_precondition_dim=config.max_dim,
            eps=config.eps,
        )

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every weight that has a gradient."""
        groups = self.param_groups
        self.param_groups = [g for g in groups if g["params"][0].grad is not None]
        try:
            loss: float | None = super().step(closure)
        finally:
            self.param_groups = groups
        return loss


def _turned(weight: nn.Parameter, config: SOAPConfig) -> bool:
    """Whether any axis has a basis: none has where there is but one axis."""
    return weight.ndim > 1 and min(weight.shape) <= config.max_dim
