"""A network as a graph: boxes for what computes, edges for what flows.

It is traced by ``torch.export``, so that it shows what runs, additions and all, and not what the
modules are called. What follows a layer and nothing else (BatchNorm, ReLU) is in that layer's box.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.runtimes.deploying import deploy
from trainables.runtimes.exported import Served, failure, quiet

_SILENT = {
    *("view", "reshape", "flatten", "contiguous", "clone", "dropout", "_to_copy", "detach"),
    *("alias", "unsqueeze", "squeeze", "getitem", "to", "_assert_tensor_metadata", "expand"),
}
_FOLLOWERS = {
    "batch_norm": "BN",
    "layer_norm": "LN",
    "relu": "ReLU",
    "relu_": "ReLU",
    "relu6": "ReLU6",
    "hardtanh": "ReLU6",
    "hardtanh_": "ReLU6",
    "silu": "SiLU",
    "silu_": "SiLU",
    "gelu": "GELU",
    "hardswish": "hardswish",
    "hardswish_": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "sigmoid": "sigmoid",
    "softmax": "softmax",
    "quantize_per_tensor": "rounded",
    "dequantize_per_tensor": "",
    "clamp": "",
}
_WORDS = {
    "add": "+",
    "add_": "+",
    "mul": "×",
    "mul_": "×",
    "mean": "mean",
    "cat": "concatenate",
    "chunk": "split",
    "max_pool2d": "max pool",
    "avg_pool2d": "average pool",
    "adaptive_avg_pool2d": "average pool",
    "scaled_dot_product_attention": "attention",
}


@dataclass(eq=False)
class Box:
    """What computes.

    Attributes:
        name: of its module; empty where it is a function.
        does: what, in a few words: ``conv 3x3, BN, ReLU``.
        shape: of its result without the batch: ``16x32x32``.
        inputs: the boxes that it reads.
    """

    name: str
    does: list[str]
    shape: str
    inputs: list["Box"] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What it does, as one text."""
        return ", ".join(word for word in self.does if word)


def graph_of(network: Network, image_shape: ImageShape) -> list[Box]:
    """The boxes of a network, the images first, none before what it reads.

    Args:
        network: stays as it is.
        image_shape: ``(C, H, W)``.

    Raises:
        UserError: torch cannot trace it; says why in one line.
    """
    served = Served(network)
    deploy(served.network)
    try:
        with quiet(), torch.no_grad():
            images = served.sample(image_shape)
            program: Any = torch.export.export(served, (images,))
    except Exception as error:  # a tracer that stumbles raises errors of any kind
        raise failure(network, "as a graph", error) from error
    given = set(program.graph_signature.user_inputs)
    result = program.graph_signature.user_outputs[0]
    boxes: list[Box] = []
    where: dict[Node, Box] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in given:
            where[node] = _new(boxes, Box("", ["images"], _shape(node)))
        elif node.op == "call_function":
            _place(node, where, boxes)
    last = next(box for node, box in where.items() if node.name == result)
    read = _read(last)  # some features lead nowhere: they are not of the logits
    return [box for box in boxes if box in read]


def _place(node: Node, where: dict[Node, Box], boxes: list[Box]) -> None:
    """Gives a node its box; none where it is made of weights alone."""
    sources = [one for one in node.all_input_nodes if one in where]
    if not sources:
        return
    word = _operator(node)
    alone = len(sources) == 1
    quiet_one = word in _SILENT or (word in _FOLLOWERS and len(_readers(sources[0])) == 1)
    box = where[sources[0]]
    bias = word == "add" and box.does[0].startswith(("conv", "linear"))
    if alone and (quiet_one or bias):
        box.does.append(_FOLLOWERS.get(word, ""))
        box.shape = _shape(node) or box.shape
        where[node] = box
        return
    inputs = list(dict.fromkeys(where[one] for one in sources))
    where[node] = _new(boxes, Box(_module(node), [_words(node, word)], _shape(node), inputs))


def _new(boxes: list[Box], box: Box) -> Box:
    boxes.append(box)
    return box


def _read(last: Box) -> set[Box]:
    found, waiting = set[Box](), [last]
    while waiting:
        box = waiting.pop()
        if box not in found:
            found.add(box)
            waiting += box.inputs
    return found


def _readers(node: Node) -> list[Node]:
    """Who reads what a node says: behind those that change its form alone."""
    found: list[Node] = []
    for user in node.users:
        found += (
            _readers(user) if user.op == "call_function" and _operator(user) in _SILENT else [user]
        )
    return found


def _operator(node: Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else getattr(node.target, "__name__", parts[0])


def _words(node: Node, word: str) -> str:
    sizes: Any = [getattr(one.meta.get("val"), "shape", ()) for one in node.all_input_nodes]
    args: Any = node.args
    if word in ("conv2d", "conv1d", "convolution") and len(sizes) > 1:
        text = "conv " + "x".join(str(int(n)) for n in sizes[1][2:])
        stride = args[3] if len(args) > 3 else (1,)
        groups = args[6] if len(args) > 6 and isinstance(args[6], int) else 1
        text += f", stride {stride[0]}" if stride[0] != 1 else ""
        return text + (f", {groups} groups" if groups != 1 else "")
    return _WORDS.get(word, _FOLLOWERS.get(word) or word)


def _shape(node: Node) -> str:
    found = node.meta.get("val")
    size = getattr(found, "shape", ())
    return "x".join(str(int(n)) for n in size[1:])


def _module(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    names: list[Any] = [entry[0] for entry in stack.values()]
    return str(names[-1]).removeprefix("network").removeprefix(".") if names else ""
