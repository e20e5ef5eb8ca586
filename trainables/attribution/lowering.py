"""From the trace of a forward pass to steps."""

import operator
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from trainables.attribution import operations as op
from trainables.attribution.steps import (
    Affine,
    Gate,
    Gated,
    Images,
    Linear,
    Opaque,
    Pointwise,
    Route,
    Step,
    Sum,
    Values,
)
from trainables.models.layers import Subsampling


class Lowering:
    """The steps of a traced forward pass, in its order.

    Args:
        graph: the trace, of one input.
        root: has the modules and parameters that the graph names, in evaluation mode, and none
            that writes where it reads.

    Attributes:
        steps: see `trainables.attribution.steps`.
        places: of the step that computes each node.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.root = root
        self.steps: list[Step] = []
        self.places: dict[fx.Node, int] = {}
        for node in graph.nodes:
            if node.op != "output":
                self.places[node] = self._place(node)

    def _place(self, node: fx.Node) -> int:
        made = Images(name="images") if node.op == "placeholder" else self._made(node)
        if isinstance(made, int):
            return made
        self.steps.append(made)
        return len(self.steps) - 1

    def _made(self, node: fx.Node) -> Step | int:
        """The step of a node; or the place of one that computes it already."""
        kind, module = self._kind(node)
        inputs = [self.places[one] for one in node.all_input_nodes]
        first = node.args[0] if node.args else None
        source = self.places[first] if isinstance(first, fx.Node) else None
        facts: dict[str, Any] = {
            "name": op.name_of(node),
            "reads": tuple(inputs),
            "call": lambda values: self._called(node, values, {}),
        }
        if kind in op.SUMS and op.adds_two(node):
            return self._sum(node, facts)
        if kind in op.PRODUCTS and op.adds_two(node):
            return self._product(node, facts)
        if kind in op.CONCATENATIONS:
            return self._concatenation(node, facts)
        opaque = Opaque(**facts, what=op.described(node, module))
        if kind is operator.getitem and isinstance(first, fx.Node) and op.cuts(first):
            return self._piece(node, first, facts)
        if source is not None and kind in op.GATES:
            return Gate(**facts, what=opaque.what, nonnegative=True)
        if source is None or (self._is(source, Opaque) and not self._is(source, Gate)):
            return opaque
        if kind in op.SAME and op.drops_nothing(node):
            return source
        if self._is(source, Gate):
            return Gate(**facts, what=opaque.what, nonnegative=True) if kind in op.MOVES else opaque
        facts |= {"sources": (source,)}
        below = self.steps[source].nonnegative
        if kind in op.RECTIFIERS or kind in op.POINTWISE:
            return Pointwise(**facts, nonnegative=kind in op.RECTIFIERS)
        if kind in op.MOVES or (kind is F.pad and op.pads_zeros(node)):
            return Route(**facts, moves=self._moves(node, (source,)), nonnegative=below)
        averages = kind in op.AVERAGES or (kind in op.MEANS and op.of_features(node))
        if averages and len(inputs) == 1:
            moves = self._moves(node, (source,))
            facts |= {"nonnegative": below, "from_nonnegative": below}
            return Linear(**facts, apply=lambda x, _: moves([x], ()))
        return self._layer(node, source, module, facts) or opaque

    def _layer(
        self, node: fx.Node, source: int, module: nn.Module | None, facts: dict[str, Any]
    ) -> Step | int | None:
        below = self.steps[source]
        norm = self._norm(node, module)
        if norm is not None:
            alone = len(node.all_input_nodes[0].users) == 1
            if alone and isinstance(below, Linear) and below.weight is not None:
                fold(below, norm)
                return source
            if not isinstance(module, nn.BatchNorm1d):
                scale, shift = (part.to(norm.running_var)[:, None, None] for part in affine(norm))
                return Affine(**facts, scale=scale, shift=shift)
            return None
        facts |= {"from_nonnegative": below.nonnegative}
        if type(module) is nn.Linear:
            return Linear(**facts, apply=_dense, weight=module.weight, bias=module.bias)
        if node.target is F.linear:
            weight, bias = (*map(self._tensor, node.args[1:]), None)[:2]
            return Linear(**facts, apply=_dense, weight=weight, bias=bias)
        if type(module) in (nn.Conv2d, Subsampling):
            layer: Any = module
            bias = None if layer.bias is None else layer.bias[:, None, None]
            apply = _convolution(layer)
            return Linear(**facts, apply=apply, weight=layer.weight, bias=bias)
        return None

    def _norm(self, node: fx.Node, module: nn.Module | None) -> Any:
        """The BatchNorm that a node calls; None where it would look at the other images."""
        if type(module) in (nn.BatchNorm2d, nn.BatchNorm1d):
            norm: Any = module
            return norm if norm.running_var is not None else None
        if node.target is not F.batch_norm:
            return None
        names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        said = dict(zip(names, map(self._tensor, node.args[1:]), strict=False))
        said |= {key: self._tensor(value) for key, value in node.kwargs.items()}
        fitting = said.get("training") is False and said.get("running_var") is not None
        return SimpleNamespace(**dict.fromkeys(("weight", "bias")) | said) if fitting else None

    def _tensor(self, argument: Any) -> Any:
        """The parameter or buffer that an argument is; another one as it is."""
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            return _attribute(self.root, str(argument.target))
        return argument

    def _sum(self, node: fx.Node, facts: dict[str, Any]) -> Step:
        reads = tuple(self.places[one] for one in node.args if isinstance(one, fx.Node))
        sources = tuple(place for place in reads if not self._is(place, Gate))
        below = all(self.steps[place].nonnegative for place in reads)
        return Sum(**{**facts, "reads": reads}, sources=sources, nonnegative=below)

    def _product(self, node: fx.Node, facts: dict[str, Any]) -> Step:
        reads = [self.places[one] for one in node.all_input_nodes]
        values = [place for place in reads if not self._is(place, Gate)]
        if len(values) != 1:
            return Opaque(**facts, what=op.described(node, None))
        below = self.steps[values[0]].nonnegative
        return Gated(**facts, sources=tuple(values), nonnegative=below)

    def _concatenation(self, node: fx.Node, facts: dict[str, Any]) -> Step:
        parts = node.args[0] if node.args else None
        if not isinstance(parts, list | tuple) or not all(isinstance(p, fx.Node) for p in parts):
            return Opaque(**facts, what=op.described(node, None))
        sources = tuple(dict.fromkeys(self.places[part] for part in parts))
        below = all(self.steps[place].nonnegative for place in sources)
        moves = self._moves(node, sources)
        return Route(**facts, sources=sources, moves=moves, nonnegative=below)

    def _piece(self, node: fx.Node, cut: fx.Node, facts: dict[str, Any]) -> Step:
        """One of the pieces into which a step's value is cut."""
        source = self.places[cut.all_input_nodes[0]]
        pieces, number = self._moves(cut, (source,)), node.args[1]

        def moves(inputs: list[Tensor], values: Values) -> Tensor:
            return pieces(inputs, values)[number]  # type: ignore[index]

        reads = tuple(self.places[one] for one in cut.all_input_nodes)
        facts |= {"reads": reads, "sources": (source,)}
        return Route(**facts, moves=moves, nonnegative=self.steps[source].nonnegative)

    def _is(self, place: int, kind: type[Step]) -> bool:
        return isinstance(self.steps[place], kind)

    def _moves(
        self, node: fx.Node, sources: tuple[int, ...]
    ) -> Callable[[list[Tensor], Values], Tensor]:
        def moves(inputs: list[Tensor], values: Values) -> Tensor:
            found: Tensor = self._called(node, values, dict(zip(sources, inputs, strict=True)))
            return found

        return moves

    def _kind(self, node: fx.Node) -> tuple[Any, nn.Module | None]:
        if node.op != "call_module":
            return (None if node.op == "get_attr" else node.target), None
        module = self.root.get_submodule(str(node.target))
        return type(module), module

    def _called(self, node: fx.Node, values: Values, given: Mapping[int, Any]) -> Any:
        """What a node returns, with some values given instead of those of their places."""

        def value(one: fx.Node) -> Any:
            place = self.places[one]
            return given[place] if place in given else values[place]

        args = fx.node.map_arg(node.args, value)
        kwargs = dict(fx.node.map_arg(node.kwargs, value))
        kwargs.pop("inplace", None)
        if node.op == "get_attr":
            return _attribute(self.root, str(node.target))
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target).rstrip("_"))(*args[1:], **kwargs)
        target: Any = torch.relu if node.target is torch.relu_ else node.target
        return target(*args, **kwargs)


@torch.no_grad()
def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift ``[C]`` of a BatchNorm in evaluation mode, float64."""
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    scale = (norm.weight.double() if norm.weight is not None else 1.0) / deviation
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def fold(layer: Linear, norm: Any) -> None:
    """Folds a BatchNorm into the layer in front of it."""
    assert layer.weight is not None
    scale, shift = affine(norm)
    along = (-1, *[1] * (layer.weight.ndim - 1))
    beside = (-1, *[1] * (layer.weight.ndim - 2))
    dtype = layer.weight.dtype
    layer.weight = (layer.weight.double() * scale.view(along)).to(dtype)
    bias = shift.view(beside)
    if layer.bias is not None:
        bias = bias + layer.bias.double() * scale.view(beside)
    layer.bias = bias.to(dtype)


def unread(steps: list[Step], wanted: set[int]) -> list[list[int]]:
    """For every step, the places whose values nobody needs any more once it has run.

    Args:
        steps: in their order.
        wanted: places whose values are needed in the end.
    """
    kept, last = {0, *wanted}, {}
    for place, step in enumerate(steps):
        last.update(dict.fromkeys((place, *step.reads), place))
        if isinstance(step, Linear | Affine | Sum | Route):
            kept.update(step.reads)
    done: list[list[int]] = [[] for _ in steps]
    for place, end in last.items():
        if place not in kept:
            done[end].append(place)
    return done


def _dense(x: Tensor, weight: Tensor | None) -> Tensor:
    assert weight is not None
    return F.linear(x, weight)


def _convolution(layer: Any) -> Callable[[Tensor, Tensor | None], Tensor]:
    return lambda x, weight: layer._conv_forward(x, weight, None)


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for name in path.split("."):
        found = getattr(found, name)
    return found
