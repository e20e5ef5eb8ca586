"""The steps of a network through which relevance is propagated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Values = Sequence[Any]
"""What every step has returned, by its place."""


@dataclass(kw_only=True, eq=False)
class Step:
    """One operation.

    Attributes:
        name: of its module, or of the operation.
        sources: places of the steps that its relevance goes to.
        reads: places of all the steps that it reads.
        call: its value from the values of all steps.
        nonnegative: whether it is never below 0.
    """

    name: str
    sources: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    call: Callable[[Values], Any] = lambda values: None
    nonnegative: bool = False

    def run(self, values: Values) -> Any:
        return self.call(values)


@dataclass(kw_only=True, eq=False)
class Images(Step):
    """Where the images come in."""


@dataclass(kw_only=True, eq=False)
class Opaque(Step):
    """What no relevance may reach: the arithmetic of gates and sizes, and what is not known.

    Attributes:
        what: it is, in words, for those who are refused it.
    """

    what: str


@dataclass(kw_only=True, eq=False)
class Pointwise(Step):
    """A function of each value alone; its input has its relevance."""


@dataclass(kw_only=True, eq=False)
class Gate(Opaque):
    """A sigmoid, or one in another shape: it says how much of something passes."""


@dataclass(kw_only=True, eq=False)
class Gated(Step):
    """Values times their gates: the values have all of the relevance, the gates none (Arras et
    al., Explaining Recurrent Neural Network Predictions in Sentiment Analysis, WASSA 2017,
    section 3.1)."""


@dataclass(kw_only=True, eq=False)
class Route(Step):
    """Moves values, and makes none but zeros; of a maximum, the relevance goes to the largest.

    Attributes:
        moves: its value from those of its sources, and of all steps.
    """

    moves: Callable[[list[Tensor], Values], Tensor]

    def run(self, values: Values) -> Tensor:
        return self.moves([values[place] for place in self.sources], values)

    def back(self, values: Values, relevance: Tensor) -> tuple[Tensor, ...]:
        """The relevance of each source."""
        with torch.enable_grad():
            inputs = [values[place].detach().requires_grad_() for place in self.sources]
            moved = self.moves(inputs, values)
        return torch.autograd.grad(moved, inputs, relevance)


@dataclass(kw_only=True, eq=False)
class Linear(Step):
    """A sum of weighted values, and a bias.

    Attributes:
        apply: the sum for a source and weights.
        weight: None where all are the same, and positive: an average.
        bias: ``[out]`` in the shape that is added, or None.
        from_nonnegative: whether what it reads is never below 0.
    """

    apply: Callable[[Tensor, Tensor | None], Tensor]
    weight: Tensor | None = None
    bias: Tensor | None = None
    from_nonnegative: bool = False
    _parts: dict[bool, Tensor | None] = field(default_factory=dict)

    def run(self, values: Values) -> Tensor:
        found = self.apply(values[self.sources[0]], self.weight)
        return found if self.bias is None else found + self.bias

    def part(self, positive: bool) -> Tensor | None:
        """Its positive, or its negative weights; the others are zero."""
        if self.weight is None:
            return None
        if positive not in self._parts:
            bound = {"min": 0.0} if positive else {"max": 0.0}
            self._parts[positive] = self.weight.clamp(**bound)
        return self._parts[positive]


@dataclass(kw_only=True, eq=False)
class Affine(Step):
    """A scale and a shift for each channel: a BatchNorm in evaluation mode that stands alone.

    Attributes:
        scale, shift: in the shape that is multiplied and added.
    """

    scale: Tensor
    shift: Tensor

    def run(self, values: Values) -> Tensor:
        return values[self.sources[0]] * self.scale + self.shift


@dataclass(kw_only=True, eq=False)
class Sum(Step):
    """The sum of what it reads. Gates among it are a bias: they have no relevance."""

    def run(self, values: Values) -> Tensor:
        found: Tensor = values[self.reads[0]]
        for place in self.reads[1:]:
            found = found + values[place]
        return found
