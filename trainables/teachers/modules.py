"""Names and shapes of tensors, by the module that they belong to."""

import re
from collections.abc import Mapping

from torch import nn

Shapes = dict[str, tuple[int, ...]]
"""Names of tensors to their shapes."""

Modules = dict[str, Shapes]
"""Names of modules, in order, to the shapes of what each holds by itself."""

# Heads that no network computes its logits with: losses, metrics, a teacher's copy, buffers.
BESIDE = re.compile(
    r"(\w*(loss|criterion|criteria|metrics?|acc|accuracy|auroc|f1|confmat|normali[sz]er?|ema)\w*"
    r"|\w*teacher\w*|train_\w+|val_\w+|test_\w+|mean|std|queue\w*|aux\w*|AuxLogits|preprocess\w*)",
    re.I,
)
# What would stand in the way from image to logits, could it be left out.
IN_THE_WAY = re.compile(r"(layer|stage|block|group|conv|bn|norm|feature|stem|\d)\w*", re.I)


def shapes_of(network: nn.Module) -> Shapes:
    """What a network wants to be given."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def modules_of(shapes: Mapping[str, tuple[int, ...]]) -> Modules:
    """Tensors by their modules; counters of batches do not count."""
    modules: Modules = {}
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            modules.setdefault(module, {})[leaf] = shape
    return modules


def linear_modules(modules: Modules) -> Shapes:
    """The linear layers, with the shapes of their weights."""
    return {
        name: held["weight"] for name, held in modules.items() if len(held.get("weight", ())) == 2
    }


def signature(held: Shapes, first: bool = False) -> tuple[object, ...]:
    """What tells one kind of module from another: its tensors' names and shapes.

    Args:
        held: of the module.
        first: of the network: then its input channels, as a last layer's classes, are left open,
            so that a file of other data is still known for what it is.
    """
    linear = len(held.get("weight", ())) == 2
    return tuple(
        (leaf, () if leaf == "bias" and linear else shape[1:] if linear else shape[:1] + shape[2:])
        if linear or first
        else (leaf, shape)
        for leaf, shape in sorted(held.items())
    )


def same_order(found: Modules, ours: Modules) -> dict[str, str] | None:
    """Modules of a file to ours where both have the same kinds in the same order; else None.

    Kinds and shapes must agree at every place, so that a file that registers a shortcut first, or
    a BatchNorm before its convolution, is refused. What remains is twins that stand the other way
    round; where names count them, they must stand as they are counted.
    """
    theirs = [signature(held, first=place == 0) for place, held in enumerate(found.values())]
    wanted = [signature(held, first=place == 0) for place, held in enumerate(ours.values())]
    if theirs != wanted:
        return None
    last: dict[tuple[str, object], list[int]] = {}
    for (name, held), kind in zip(found.items(), theirs, strict=True):
        numbers = [int(number) for number in re.findall(r"\d+", name)]
        frame = (re.sub(r"\d+", "#", name), kind if not numbers else tuple(sorted(held)))
        if numbers < last.get(frame, numbers):
            return None
        last[frame] = numbers
    return dict(zip(found, ours, strict=True))
