"""Relevance, propagated from the logit of a class back to the images, or to a layer."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainables.attribution.canonical import Canonical
from trainables.attribution.explainer import Explainer
from trainables.attribution.rules import Passed
from trainables.attribution.steps import Affine, Gated, Linear, Pointwise, Route, Step, Sum, Values
from trainables.data.views import Normalisation
from trainables.models.outputs import Network

Watch = Callable[[Step, Tensor, Passed], None]
"""Is told of every step, its relevance, and what became of it."""


@dataclass(frozen=True)
class Relevance:
    """What is known of images.

    Attributes:
        values: of the images ``[B, C, H, W]``, or of a layer.
        start: what was propagated, ``[B]`` float64.
        absorbed: how much of it did not arrive, ``[B]`` float64: ``start`` less the sum of the
            values.
    """

    values: Tensor
    start: Tensor
    absorbed: Tensor


class Rule:
    """How steps pass relevance on; a subclass says how those do that add."""

    def passed(self, step: Step, values: Values, relevance: Tensor) -> Passed:
        """What the sources of a step have of its relevance.

        Args:
            step: one that has sources.
            values: of all steps, as `Canonical.run` gives them.
            relevance: of the step's value, in its shape.
        """
        nothing = torch.zeros(len(relevance), dtype=torch.float64, device=relevance.device)
        match step:
            case Pointwise() | Gated():
                return Passed((relevance,), nothing)
            case Route():
                return Passed(step.back(values, relevance), nothing)
            case Linear():
                x = values[step.sources[0]]
                if step.sources == (0,) and step.weight is not None:
                    return self.first(step, x, relevance)
                return self.linear(step, x, relevance)
            case Affine():
                scaled = values[step.sources[0]] * step.scale
                return self.added((scaled,), step.shift.expand_as(scaled), relevance)
            case Sum():
                terms = tuple(values[place] for place in step.sources)
                gates = [values[place] for place in step.reads if place not in step.sources]
                bias = sum(gates[1:], gates[0]).expand_as(relevance) if gates else None
                return self.added(terms, bias, relevance)
        raise TypeError(type(step).__name__)

    def first(self, step: Linear, x: Tensor, relevance: Tensor) -> Passed:
        """Of a layer of weights that reads the images; see `linear`."""
        return self.linear(step, x, relevance)

    def linear(self, step: Linear, x: Tensor, relevance: Tensor) -> Passed:
        """Of a convolution, a linear layer or an average that reads x."""
        raise NotImplementedError

    def added(self, terms: tuple[Tensor, ...], bias: Tensor | None, relevance: Tensor) -> Passed:
        """Of an addition of terms, or of a term and a bias."""
        raise NotImplementedError


def propagate(
    canonical: Canonical,
    rule: Rule,
    values: Values,
    targets: Tensor,
    *,
    to: int = 0,
    one: bool = False,
    watch: Watch | None = None,
) -> Relevance:
    """Relevance from the logits of classes back to a step.

    Args:
        canonical: of the network.
        rule: how steps pass it on.
        values: of the steps, as `Canonical.run` gives them, float32.
        targets: classes, int64 ``[B]``.
        to: the place of the step where it ends: the images, or one that all of it passes.
        one: start with 1 instead of the logit.
        watch: is told of every step.
    """
    logits = values[canonical.logits]
    rows = torch.arange(len(logits), device=logits.device)
    start = torch.ones_like(logits[:, 0]) if one else logits[rows, targets]
    of: dict[int, Tensor] = {canonical.logits: torch.zeros_like(logits)}
    of[canonical.logits][rows, targets] = start
    absorbed = torch.zeros_like(start, dtype=torch.float64)
    for place in range(canonical.logits, to, -1):
        if place not in of:
            continue
        step, relevance = canonical.steps[place], of.pop(place)
        passed = rule.passed(step, values, relevance)
        absorbed += passed.absorbed
        if watch is not None:
            watch(step, relevance, passed)
        for source, part in zip(step.sources, passed.parts, strict=True):
            of[source] = of[source] + part if source in of else part
    return Relevance(of[to], start.double(), absorbed)


def _in_float32(value: Any) -> Any:
    """A tensor of float64 in float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def _undisturbed(images: Tensor) -> Iterator[None]:
    """Without gradients but those that rules ask for, and no autocast, whatever is around."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(images.device.type, enabled=False),
    ):
        yield


class Propagated(Explainer):
    """An explainer that propagates relevance through a copy of the network.

    Raises:
        UserError: a network with a step for which there is no rule, by name: attention, layer
            norms, layers of integers or of fake-quantised weights.

    Attributes:
        name: of the explainer, for errors.
        one: whether it starts with 1 instead of the logit.
        precise: whether the values of steps are computed in float64, for rules that show how
            they were rounded; relevance is float32.
        place: of the step where it ends: the images, unless a subclass says otherwise.
    """

    name: ClassVar[str]
    one: ClassVar[bool] = False
    precise: ClassVar[bool] = False

    def __init__(
        self, config: Any, network: Network, normalisation: Normalisation | None = None
    ) -> None:
        super().__init__(config, network, normalisation)
        self.canonical = Canonical(network, self.name)
        self._forward = self.canonical
        if self.precise:
            self._forward = Canonical(network, self.name, torch.float64)
        self.place = 0
        self._compared = False

    def check(self, images: Tensor) -> None:
        with _undisturbed(images):
            self.canonical.compare(images.detach().float().clone())

    @abstractmethod
    def rule(self) -> Rule:
        """How it passes relevance on."""

    def relevance(self, images: Tensor, targets: Tensor, watch: Watch | None = None) -> Relevance:
        """What `attribute` shows, with what was absorbed on the way.

        Args:
            images, targets: as for `attribute`.
            watch: is told of every step.

        Raises:
            UserError: the first time, where the steps do not compute the network's logits.
        """
        if not self._compared:
            self.check(images[:2])
            self._compared = True
        with _undisturbed(images):
            pixels = images.detach().to(self._forward.dtype, copy=True)
            values = [_in_float32(value) for value in self._forward.run(pixels)]
            return propagate(
                self.canonical,
                self.rule(),
                values,
                targets,
                to=self.place,
                one=self.one,
                watch=watch,
            )

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.relevance(images, targets).values

    def expected_sum(self, images: Tensor, targets: Tensor) -> Tensor:
        found = self.relevance(images, targets)
        return (found.start - found.absorbed).float()
