"""Shampoo: a matrix for every axis of a gradient (Gupta et al., ICML 2018, arXiv 1802.09568).

Algorithm 2: of the gradient G of a weight of k axes

    H_i ← H_i + G_(i) G_(i)ᵀ          from H_i = ε I, with G_(i) the unfolding at axis i
    W ← W − η Ḡ ×_1 H_1^(−1/2k) ... ×_k H_k^(−1/2k)

with Ḡ the mean of gradients, ``momentum`` Ḡ + (1 − ``momentum``) G. To save time the roots are
computed in each of the first ``precondition_every`` steps, where H grows fastest, and then every
so many, and an axis longer than ``max_dim`` has a diagonal H. Axes of length 1 do not count: a
1x1 convolution is a matrix. Vectors have k = 1. The L2 penalty is part of G. Sums never forget:
steps shrink as AdaGrad's do, and the size of a step is not that of another rule's, so that lr has
to be searched.

The classes of pytorch_optimizer are others: its Shampoo mixes G with the last preconditioned
gradient and stands still up to the first roots, its ScalableShampoo is Anil et al.'s variant
(arXiv 2002.09018), whose state cannot be loaded without pickles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.optimizers.rule import Rule, Weight
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ShampooConfig:
    """The defaults are ours."""

    momentum: float = setting(
        0.9, "decay of the mean of gradients", at_least=0, at_most=0.9999, search=(0.8, 0.98)
    )
    eps: float = setting(
        1e-4, "what the matrices begin with", above=0, search=(1e-10, 1e-2), log=True
    )
    precondition_every: int = setting(
        20, "steps from one root to the next", at_least=1, search=(1, 100), log=True
    )
    max_dim: int = setting(1200, "longest axis that has a full matrix", at_least=1)


class Shampoo(Rule):
    """The rule of `trainables.optimizers.registry.OPTIMIZERS` by this name."""

    Config = ShampooConfig

    def build(
        self, trial: TrialConfig, weights: Sequence[Weight], device: torch.device
    ) -> torch.optim.Optimizer:
        return ShampooSteps([weight.parameter for weight in weights], trial, self.config)


class ShampooSteps(torch.optim.Optimizer):
    """The optimizer.

    Args:
        weights: to train.
        trial: has ``lr`` and ``weight_decay``.
        config: of the rule.
    """

    def __init__(
        self, weights: Sequence[nn.Parameter], trial: TrialConfig, config: ShampooConfig
    ) -> None:
        self.config = config
        super().__init__(weights, {"lr": trial.lr, "weight_decay": trial.weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        if closure is not None:
            raise TypeError("expected no closure")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(group, weight)
        return None

    def _update(self, group: dict[str, Any], weight: Tensor) -> None:
        config, state = self.config, self.state[weight]
        shape = [length for length in weight.shape if length > 1] or [1]
        assert weight.grad is not None
        gradient = weight.grad.add(weight, alpha=group["weight_decay"]).reshape(shape)
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(gradient)
            state["sums"] = [self._start(weight, length) for length in shape]
            state["roots"] = [torch.empty_like(one) for one in state["sums"]]
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - config.momentum)
        for axis, total in enumerate(state["sums"]):
            unfolded = gradient.movedim(axis, 0).reshape(shape[axis], -1)
            total += unfolded @ unfolded.T if total.ndim == 2 else unfolded.square().sum(1)
        if state["step"] <= config.precondition_every or (
            state["step"] % config.precondition_every == 0
        ):
            for total, root in zip(state["sums"], state["roots"], strict=True):
                root.copy_(inverse_root(total, 2 * len(shape), config.eps))
        update: Tensor = state["mean"]
        for root in state["roots"]:  # each takes the first axis and puts it last
            if root.ndim == 2:
                update = torch.tensordot(update, root, dims=([0], [0]))
            else:
                update = update.movedim(0, -1) * root
        weight.add_(update.reshape(weight.shape), alpha=-group["lr"])

    def _start(self, weight: Tensor, length: int) -> Tensor:
        if length > self.config.max_dim:
            return weight.new_full((length,), self.config.eps)
        return torch.eye(length, device=weight.device, dtype=weight.dtype) * self.config.eps


def inverse_root(matrix: Tensor, order: int, least: float) -> Tensor:
    """``matrix ** (-1 / order)``.

    Args:
        matrix: symmetric ``[d, d]``, or the diagonal ``[d]`` of one.
        order: of the root.
        least: no eigenvalue is less, but for rounding.
    """
    if matrix.ndim == 1:
        return matrix.pow(-1 / order)
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=least).pow(-1 / order)) @ vectors.T
