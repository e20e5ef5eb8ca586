"""Muon: momentum, made orthogonal matrix by matrix (Jordan et al., 2024).

Source: "Muon: An optimizer for hidden layers in neural networks",
kellerjordan.github.io/posts/muon.

    B ← μ B + (1 − μ) G          the mean of gradients
    W ← W − η s msign(μ B + (1 − μ) G)

with msign(U S Vᵀ) = U Vᵀ by five Newton-Schulz steps, whose quintic leaves singular values of
0.7 to 1.2; they are computed in fp32 here, in bf16 in the author's code. ``scale`` says what s is
of a matrix of m rows and n columns. A kernel ``[out, in, kh, kw]`` is the matrix
``[out, in·kh·kw]``, as the author has it; that of a convolution in groups is one matrix for each,
since no output reads another group's inputs.

As the author says it, the rest is AdamW's: biases and gains, the first layer, the classifier.
So are vectors (a depthwise filter, the kernel of an ECA) and the adaptors of methods, whose
outputs a loss reads as it reads logits. A row's ``optimizer_groups`` lists which is which.
Both parts decay decoupled. AdamW's learning rate is ``adamw_lr_ratio`` times the trial's: the
author's 3e-4 beside 0.02; with ``scale: rms`` one rate serves both.

The Newton-Schulz steps are pytorch_optimizer's. Its own class counts steps by group, takes the
groups of a convolution for one matrix, and knows bf16 alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from trainables.config import TrialConfig
from trainables.optimizers.rule import Rule, Weight
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class MuonConfig:
    """The defaults are the author's."""

    momentum: float = setting(
        0.95, "decay of the mean of gradients", at_least=0, at_most=0.9999, search=(0.8, 0.98)
    )
    nesterov: bool = setting(True, "the mean as it will be, as in Nesterov's form")
    newton_schulz_steps: int = setting(5, "towards orthogonal rows", at_least=1, at_most=20)
    scale: str = setting(
        "spectral",
        "of an update of m x n: spectral: sqrt(max(1, m/n)), Jordan's; rms: 0.2 sqrt(max(m, n)), "
        "the size of AdamW's (Moonlight, arXiv 2502.16982)",
        choices=("spectral", "rms"),
    )
    adamw_lr_ratio: float = setting(
        0.015, "lr of AdamW's part over lr", above=0, search=(0.005, 1), log=True
    )
    beta1: float = setting(0.9, "of AdamW's part", at_least=0, at_most=0.9999, search=(0.8, 0.98))
    beta2: float = setting(
        0.95, "of AdamW's part", at_least=0, at_most=0.99999, search=(0.9, 0.999)
    )
    eps: float = setting(1e-10, "of AdamW's part", above=0, search=(1e-10, 1e-2), log=True)


class Muon(Rule):
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""

    Config = MuonConfig

    def build(
        self, trial: TrialConfig, weights: Sequence[Weight], device: torch.device
    ) -> torch.optim.Optimizer:
        numbers = sorted({weight.blocks for weight in weights} | {0, 1}, key=lambda n: (n < 1, n))
        ratio = self.config.adamw_lr_ratio
        parts = {n: [weight.parameter for weight in weights if weight.blocks == n] for n in numbers}
        adamw_part = {
            "rule": "adamw",
            "lr": trial.lr * ratio,
            "lr_ratio": ratio,
            "fused": device.type in ("cpu", "cuda"),
        }
        groups = [
            {"params": part, **({"rule": "muon", "blocks": n} if n else adamw_part)}
            for n, part in parts.items()
        ]
        return MuonSteps(groups, self.config, trial.lr, trial.weight_decay)


class MuonSteps(torch.optim.Optimizer):
    """The optimizer.

    Args:
        groups: of weights; with ``blocks`` those whose kernels are so many matrices, without those
            of AdamW.
        config: of the rule.
        lr, weight_decay: of every group that does not say it.
    """

    def __init__(
        self, groups: list[dict[str, Any]], config: MuonConfig, lr: float, weight_decay: float
    ) -> None:
        self.config = config
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        if closure is not None:
            raise TypeError("expected no closure")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if "blocks" not in group:
                self._adamw(group, weights)
                continue
            for weight in weights:  # one by one: no two layers are ever one matrix
                self._muon(group, weight)
        return None

    def _muon(self, group: dict[str, Any], weight: Tensor) -> None:
        config, state, gradient = self.config, self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["mean"] = torch.zeros_like(weight)
        mean: Tensor = state["mean"].lerp_(gradient, 1 - config.momentum)
        wanted = gradient.lerp(mean, config.momentum) if config.nesterov else mean
        matrices = wanted.reshape(group["blocks"], len(weight) // group["blocks"], -1)
        m, n = matrices.shape[1:]
        size = max(1, m / n) ** 0.5 if config.scale == "spectral" else 0.2 * max(m, n) ** 0.5
        update = orthogonal(matrices, config.newton_schulz_steps).reshape(weight.shape)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * size)

    def _adamw(self, group: dict[str, Any], weights: list[Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] |= {
                    "mean": torch.zeros_like(weight),
                    "squares": torch.zeros_like(weight),
                    "step": torch.zeros((), device=weight.device),
                }
        states = [self.state[weight] for weight in weights]
        if weights:
            adamw(
                weights,
                [weight.grad for weight in weights],
                [state["mean"] for state in states],
                [state["squares"] for state in states],
                [],
                [state["step"] for state in states],
                fused=group["fused"],
                amsgrad=False,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=self.config.eps,
                maximize=False,
            )


def orthogonal(matrices: Tensor, steps: int) -> Tensor:
    """The nearest matrices whose singular values are about 1, each by itself.

    Args:
        matrices: ``[blocks, m, n]``.
        steps: of Newton and Schulz.
    """
    from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

    return zero_power_via_newton_schulz_5(matrices, num_steps=steps, dtype=torch.float32)
