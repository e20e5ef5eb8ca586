"""A copy of a network as a list of steps that relevance can be propagated through.

One symbolic trace of the forward pass shows what runs, whatever the modules are called and how
often they run: rectifiers that are functions, write in place or are used twice, additions that
are no modules. A BatchNorm behind a convolution or a linear layer, and behind nothing else, is
folded into it, in float64:

    W' = W γ / sqrt(σ² + ε)      b' = (b - μ) γ / sqrt(σ² + ε) + β

Any other one, such as that in front of a convolution of a pre-activation block, stays a step of
its own: folded into the convolution behind it, it would be wrong where that one is padded.
"""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from trainables.attribution.layers import label
from trainables.attribution.lowering import Lowering, unread
from trainables.attribution.steps import Images, Opaque, Step
from trainables.errors import UserError
from trainables.models.external import External
from trainables.models.fake_quantised import FakeQuantisedLayer
from trainables.models.int8 import Int8Layer, Int8Sum
from trainables.models.layers import Subsampling
from trainables.models.outputs import Network

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Of the copy's logits, relative to the largest of an image."""

_WHOLE = (Subsampling, FakeQuantisedLayer, Int8Layer, Int8Sum)


_SIZES = {"getattr", "size", "dim", "_assert"}


class _Tracer(fx.Tracer):
    """Goes into every module but layers, ours among them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _WHOLE) or super().is_leaf_module(m, module_qualified_name)


class _Answers(nn.Module):
    """Logits and stages."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        # A foreign network is heard by hooks, which a trace does not run.
        self.network: nn.Module = network.backbone if isinstance(network, External) else network
        self.foreign = isinstance(network, External)

    def forward(self, images: Tensor) -> Any:
        outputs = self.network(images)
        return (outputs, ()) if self.foreign else (outputs.logits, tuple(outputs.stages))


class Canonical:
    """The steps of a network, in the order in which they run, with weights of its own.

    Args:
        network: as it is; it stays so.
        explainer: who needs it, for what is refused.
        dtype: of the weights.

    Attributes:
        named: what the network is called in errors.
        steps: the first takes the images.
        logits: the place of the step that returns them.
        stages: the places of those that return the stages of `Outputs`, early to deep; none of a
            foreign network.

    Raises:
        UserError: a step that relevance cannot be propagated through, by name.
    """

    def __init__(
        self, network: Network, explainer: str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.explainer, self.named = explainer, label(network)
        self.dtype = dtype
        with torch.inference_mode(False), torch.no_grad():
            self._network = copy.deepcopy(network).eval().requires_grad_(False)
            self._read(dtype)
        self._refuse_unknown()
        self._unread = unread(self.steps, {self.logits})

    def _read(self, dtype: torch.dtype) -> None:
        root = _Answers(copy.deepcopy(self._network).to(dtype))
        for module in root.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        try:
            graph = _Tracer().trace(root)
            lowered = Lowering(graph, root)
            logits, stages = next(node for node in graph.nodes if node.op == "output").args[0]
            self.steps, self.logits = lowered.steps, lowered.places[logits]
            self.stages = tuple(lowered.places[stage] for stage in stages)
        except Exception as error:  # whatever a forward pass raises that meets no tensors
            raise self._refusal(f"its forward pass cannot be traced: {_line(error)}") from error

    def run(self, images: Tensor) -> list[Any]:
        """What every step returns; None where no rule needs it.

        Args:
            images: ``[B, C, H, W]``, of the same dtype as the weights.
        """
        values: list[Any] = []
        for place, step in enumerate(self.steps):
            values.append(images if isinstance(step, Images) else step.run(values))
            for done in self._unread[place]:
                values[done] = None
        return values

    def compare(self, images: Tensor) -> None:
        """Looks whether the logits are the network's.

        Where they are not to `TOLERANCE`, in float64: of some networks rounding alone is more.

        Args:
            images: as for `run`; few are enough.

        Raises:
            UserError: they are not.
        """
        true = copy.deepcopy(self._network).to(self.dtype)(images.to(self.dtype)).logits
        try:
            found = self.run(images.to(self.dtype))[self.logits]
        except Exception as error:  # a step was called as it was not in the trace
            raise self._refusal(f"its steps cannot be run: {_line(error)}") from error
        largest = true.abs().amax(1, keepdim=True)
        if ((true - found).abs() <= TOLERANCE[self.dtype] * largest).all():
            return
        if self.dtype == torch.float64:
            raise self._refusal("it computes something that the trace of a pass does not show")
        Canonical(self._network, self.explainer, torch.float64).compare(images)

    def passes(self, place: int) -> bool:
        """Whether all relevance comes by a step."""
        reached = self._reached()
        behind = [self.steps[other].sources for other in reached if other > place]
        return place in reached and all(min(sources) >= place for sources in behind)

    def _reached(self) -> set[int]:
        """Places that the relevance of a logit comes to."""
        found = {self.logits}
        for place in range(self.logits, -1, -1):
            if place in found:
                found.update(self.steps[place].sources)
        return found

    def _refuse_unknown(self) -> None:
        for place in sorted(self._reached()):
            step = self.steps[place]
            if isinstance(step, Opaque):
                raise self._refusal(f"there is no rule for {self._cause(step).what}")
            if not isinstance(step, Images) and not step.sources:
                raise self._refusal(f"'{step.name}' does not depend on the images")

    def _cause(self, step: Opaque) -> Opaque:
        """What in front of a step that is not understood was not understood first."""
        found, seen = [step], {id(step)}
        for one in found:
            for place in one.reads:
                other = self.steps[place]
                if isinstance(other, Opaque) and id(other) not in seen:
                    seen.add(id(other))
                    found.append(other)
        first = [one for one in found if one.name not in _SIZES and self._reads_features(one)]
        return min(first or found, key=self.steps.index)

    def _reads_features(self, step: Step) -> bool:
        return any(not isinstance(self.steps[place], Opaque) for place in step.reads)

    def _refusal(self, reason: str) -> UserError:
        return UserError(f"{self.explainer} cannot explain {self.named}: {reason}")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
