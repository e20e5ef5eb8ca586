"""The operations of a traced forward pass that rules are known for.

The sets hold what a node calls: the class of a module, a function, or the name of a method.
"""

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

RECTIFIERS = {nn.ReLU, nn.ReLU6, F.relu, F.relu6, torch.relu, torch.relu_, "relu", "relu_"}
POINTWISE = {
    *(nn.LeakyReLU, nn.SiLU, nn.Hardswish, nn.GELU),
    *(F.leaky_relu, F.silu, F.hardswish, F.gelu),
}
SAME = {nn.Identity, nn.Dropout, nn.Dropout2d, F.dropout, "clone", "detach"}
MOVES = {
    *(nn.MaxPool2d, F.max_pool2d, torch.max_pool2d),  # to the largest
    *(nn.Flatten, nn.ZeroPad2d, nn.ChannelShuffle, torch.flatten, torch.reshape),
    *(torch.transpose, torch.permute, torch.squeeze, torch.unsqueeze, operator.getitem),
    *("flatten", "view", "reshape", "transpose", "permute", "squeeze", "unsqueeze"),
    *("contiguous", "expand", "expand_as", "index_select", torch.index_select),
}
AVERAGES = {nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d}
MEANS = {"mean", torch.mean}
GATES = {nn.Sigmoid, nn.Hardsigmoid, F.sigmoid, torch.sigmoid, F.hardsigmoid, "sigmoid"}
SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
CONCATENATIONS = {torch.cat, torch.concat}


def name_of(node: fx.Node) -> str:
    if node.op in ("call_module", "get_attr"):
        return str(node.target).removeprefix("network.")
    return str(getattr(node.target, "__name__", node.target))


def described(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return f"module '{name_of(node)}' ({type(module).__name__})"
    return f"the operation '{name_of(node)}'"


def cuts(node: fx.Node) -> bool:
    return node.target in ("chunk", "split", torch.chunk, torch.split)


def adds_two(node: fx.Node) -> bool:
    """Whether it is called with two results, and nothing else that changes what it does."""
    return (
        len(node.args) == 2 and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args)
    )


def drops_nothing(node: fx.Node) -> bool:
    """Whether a dropout drops nothing: as a function it may do so in evaluation mode, too."""
    if node.target is not F.dropout:
        return True
    training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
    return training is False


def pads_zeros(node: fx.Node) -> bool:
    said = dict(zip(("mode", "value"), node.args[2:], strict=False)) | node.kwargs
    return bool(said.get("mode", "constant") == "constant" and said.get("value") in (None, 0))


def of_features(node: fx.Node) -> bool:
    """Whether a mean is taken of an image's own values, over axes that are said."""
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    found = [axes] if isinstance(axes, int) else axes
    return isinstance(found, list | tuple) and all(axis in (1, 2, 3, -1, -2, -3) for axis in found)
