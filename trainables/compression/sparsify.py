"""Unstructured pruning: the weights that are smallest in absolute value become zero.

Han et al., Learning both Weights and Connections for Efficient Neural Networks (NeurIPS 2015); in
rounds with fine-tuning between them as in Frankle and Carbin, The Lottery Ticket Hypothesis (ICLR
2019); gradually as in Zhu and Gupta, To Prune, or Not to Prune (2017), equation 1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.compression.lockstep import layers
from trainables.compression.rounds import evenly
from trainables.compression.step import Scene, Span, Step
from trainables.errors import UserError
from trainables.models.blueprint import Edit
from trainables.models.masks import Masked, apply_masks, masks
from trainables.models.outputs import Network
from trainables.settings import setting

_PATTERN = re.compile(r"(\d+):(\d+)")
_ROUNDING = 1e-4  # a count is rounded


def share_after(rounds: int, done: int, share: float, schedule: str) -> float:
    """The share of zeros after some of the rounds, in [0, 1].

    Args:
        rounds: how many there are.
        done: how many are over, from 1.
        share: after the last.
        schedule: ``geometric``: every round takes the same share of the weights that are left, so
            that 16 rounds to 0.9719 take 20 % each; ``cubic``: share * (1 - (1 - t)^3) at t =
            done / rounds, many at first and few at last.
    """
    if done >= rounds:
        return share
    if schedule == "cubic":
        return share * (1 - (1 - done / rounds) ** 3)
    return 1 - (1 - share) ** (done / rounds)


def smallest(weights: Sequence[Tensor], kept: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks without so many weights: those that are masked already, then the smallest.

    Args:
        weights: of any shapes.
        kept: their masks so far, bool.
        count: how many are to be masked in all.

    Returns:
        A mask for each, bool. Of equally small weights those in front go first.
    """
    sizes = torch.cat(
        [
            torch.where(mask, w.detach().abs(), -1.0).flatten()
            for w, mask in zip(weights, kept, strict=True)
        ]
    )
    found = torch.ones_like(sizes, dtype=torch.bool)
    found[sizes.argsort(stable=True)[:count]] = False
    parts = found.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def pattern_mask(weight: Tensor, keep: int, of: int) -> Tensor:
    """N:M sparsity: of every M weights that follow one another along the inputs of a neuron, the N
    largest stay (Zhou et al., Learning N:M Fine-grained Structured Sparse Networks, ICLR 2021).

    Args:
        weight: ``[out, in, ...]``.
        keep, of: N and M. Weights whose inputs are no multiple of M have no such pattern.

    Returns:
        The mask, bool; all True where there is no pattern.
    """
    if weight.shape[1] % of:
        return torch.ones_like(weight, dtype=torch.bool)
    last = weight.detach().abs().movedim(1, -1)
    groups = last.reshape(-1, of)
    order = groups.argsort(dim=1, descending=True, stable=True)
    found = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :keep], True)
    return found.view(last.shape).movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class SparsifyConfig:
    """See `Sparsify`."""

    amount: float = setting(
        0.9,
        "share of the weights that are zero in the end",
        above=0,
        at_most=0.9999,
        search=(0.5, 0.99),
    )
    rounds: int = setting(1, "in which the share is reached", at_least=1)
    schedule: str = setting(
        "geometric",
        "an equal share of what is left in every round, or many at first (cubic)",
        choices=("geometric", "cubic"),
    )
    begin: float = setting(
        0.0, "share of the training before the first round", at_least=0, at_most=1
    )
    end: float = setting(0.5, "share of the training before the last round", at_least=0, at_most=1)
    scope: str = setting(
        "global",
        "what is compared: all weights, or those of a layer",
        choices=("global", "layer"),
    )
    pattern: str | None = setting(
        None, "N:M, as in 2:4: so many of M neighbouring weights stay, instead of a share"
    )


class Sparsify(Step):
    """Masks weights of the convolutions and linear layers in rounds; trained on in between.

    The first round falls on ``begin``, the last on ``end``. The masks hold after every update,
    whatever momentum and weight decay would do to what is under them: the learner sees to it. What
    a start has masked already counts, and stays masked.
    """

    Config = SparsifyConfig
    config: SparsifyConfig
    counts = True

    def __init__(self, config: SparsifyConfig) -> None:
        super().__init__(config)
        self.pattern = _pattern(config.pattern)
        if self.pattern and config.rounds > 1:
            raise UserError(
                f"sparsify.rounds: a pattern ({config.pattern}) is made in one, got {config.rounds}"
            )
        self.moments = evenly(config.rounds, config.begin, config.end, "sparsify")

    def check(self, network: Network, image_shape: tuple[int, int, int]) -> None:
        if self.pattern:
            _, of = self.pattern
            if all(layer.weight.shape[1] % of for layer in layers(network).values()):
                raise UserError(
                    f"sparsify.pattern: no layer of the student has a multiple of {of} inputs"
                )
            return
        # Of a start; without values it cannot be told.
        there = [mask for mask in masks(network).values() if not mask.is_meta]
        zeros = sum(int((~mask).sum()) for mask in there)
        share = zeros / sum(layer.weight.numel() for layer in layers(network).values())
        if share > self.config.amount + _ROUNDING:
            raise UserError(
                f"sparsify: {self.config.amount:g} of the weights are to be zero, and "
                f"{share:.4g} of the student's are masked before the first round"
            )

    def spans(self) -> Mapping[str, Span]:
        return {}  # zeros are computed and stored as other values are

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        weights = {name: layer.weight for name, layer in layers(scene.network).items()}
        fresh = weights.keys() - masks(scene.network).keys()
        change = Masked(tuple(sorted(weights)))
        change.apply(scene.network)  # now, so that there are masks to fill
        there = masks(scene.network)
        for name, mask in self._masks(moment, weights, there).items():
            there[name].copy_(mask)
        apply_masks(scene.network)
        return [change] if fresh else []

    def _masks(
        self, moment: float, weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.pattern:
            return {
                name: pattern_mask(weight, *self.pattern) & kept[name]
                for name, weight in weights.items()
            }
        rounds = len(self.moments)
        done = self.moments.index(moment) + 1
        share = share_after(rounds, done, self.config.amount, self.config.schedule)
        parts = [[name] for name in weights] if self.config.scope == "layer" else [[*weights]]
        found: dict[str, Tensor] = {}
        for names in parts:
            own = [weights[name] for name in names]
            masked = sum(int((~kept[name]).sum()) for name in names)
            count = max(masked, round(share * sum(weight.numel() for weight in own)))
            made = smallest(own, [kept[name] for name in names], count)
            found |= zip(names, made, strict=True)
        return found


def _pattern(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = _PATTERN.fullmatch(text)
    keep, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < keep < of:
        raise UserError(f"sparsify.pattern: expected N:M with 0 < N < M, such as 2:4, got {text!r}")
    return keep, of
