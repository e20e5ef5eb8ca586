"""A layer of a network as a place to differentiate at: found by name, and read in a pass.

What a layer returned is kept before anything behind it can write to the same memory, as ReLUs in
place do; the layers behind it get a copy. Gradients are recorded from there on alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.errors import UserError, unknown
from trainables.models.features import MODULE
from trainables.models.outputs import Network

LAST = "last"


@dataclass(frozen=True)
class Layer:
    """Where a feature map is in a forward pass.

    Attributes:
        stage: number of the stage; None where a module was asked for.
        module: name of the module that returns it; None where none does: the network computes
            it by itself, and it is read from the network's `Outputs`.
        call: which of the module's runs, from 0.
    """

    stage: int | None
    module: str | None
    call: int = 0


def find_layer(key: str, choice: str, network: Network, images: Tensor) -> Layer:
    """The layer that a setting asks for.

    Args:
        key: the setting's full name, for errors.
        choice: ``last`` or the number of a stage, from 0; or ``module:NAME``, of one that runs
            more than once the last time.
        network: in evaluation mode, and not in inference mode.
        images: ``[1, C, H, W]``.

    Raises:
        UserError: no such stage or module, or no feature map ``[B, C, h, w]``.
    """
    if choice.startswith(MODULE):
        return _module(key, choice.removeprefix(MODULE), network, images)
    runs: list[tuple[Layer, Any, int]] = []  # in the order of finishing
    counts: dict[str, int] = {}

    def listen(name: str, _: nn.Module, __: Any, output: Any) -> None:
        call = counts.get(name, 0)
        counts[name] = call + 1
        runs.append((Layer(None, name, call), output, getattr(output, "_version", 0)))

    with torch.no_grad(), _hooks(network, listen):
        stages = network(images).stages
    if not stages:
        raise UserError(f"{key}: {label(network)} has no feature maps; write {MODULE}NAME")
    numbers = {str(number): number for number in range(len(stages))} | {LAST: len(stages) - 1}
    if choice not in numbers:
        raise UserError(
            f"{key}: expected {LAST}, a stage from 0 to {len(stages) - 1} or {MODULE}NAME, "
            f"got {choice!r}"
        )
    stage = numbers[choice]
    # The first that returned this very tensor with nothing written to it since: what reads it, by
    # whatever way, then reads what that module returned. A later one, such as an identity on a
    # shortcut, may be on one of the ways alone.
    for layer, output, version in runs:
        if output is stages[stage] and version == output._version:
            return replace(layer, stage=stage)
    return Layer(stage, None)


def _module(key: str, name: str, network: Network, images: Tensor) -> Layer:
    known = [known for known, _ in network.named_modules() if known]
    if name not in known:
        raise unknown(f"module of {label(network)} ({key})", name, known)
    found: list[Any] = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda _, __, output: found.append(getattr(output, "shape", None))
    )
    try:
        with torch.no_grad():
            network(images)
    finally:
        handle.remove()
    if not found:
        raise UserError(f"{key}: module {name} of {label(network)} does not run")
    if found[-1] is None or not _of_positions(found[-1], images.shape):
        what = "no tensor" if found[-1] is None else f"{list(found[-1])}"
        raise UserError(
            f"{key}: expected a feature map [B, C, h, w], but module {name} of "
            f"{label(network)} returns {what}"
        )
    return Layer(None, name, len(found) - 1)


def read_layer(network: Network, layer: Layer, images: Tensor) -> tuple[Tensor, Tensor]:
    """A forward pass.

    Args:
        network: in evaluation mode, with weights that have no gradients.
        layer: as `find_layer` gives it.
        images: ``[B, C, H, W]``.

    Returns:
        The logits, and the feature map ``[B, C, h, w]`` on which they depend.
    """
    if layer.module is None:
        assert layer.stage is not None
        outputs = network(images.detach().requires_grad_())
        return outputs.logits, outputs.stages[layer.stage]
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        kept.append(output)
        if len(kept) != layer.call + 1:
            return None
        kept[-1] = output.detach().requires_grad_()
        return kept[-1].clone()

    handle = network.get_submodule(layer.module).register_forward_hook(keep)
    try:
        logits = network(images).logits
    finally:
        handle.remove()
    return logits, kept[layer.call]


def _of_positions(shape: torch.Size, images: torch.Size) -> bool:
    """Whether a shape is that of a feature map: height and width shrink alike.

    Those of channels-last maps do not.
    """
    if len(shape) != 4:
        return False
    (h, w), (height, width) = shape[2:], images[2:]
    alike = abs(h / height - w / width) <= 1 / height + 1 / width
    return alike and h <= height and w <= width


@contextmanager
def _hooks(network: nn.Module, listen: Any) -> Iterator[None]:
    """Every module but the whole reports its name and its output while the context lasts."""
    handles = [
        module.register_forward_hook(partial(listen, name))
        for name, module in network.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def label(network: Network) -> str:
    """What a network is called in an error."""
    blueprint = getattr(network, "blueprint", None)
    if blueprint is not None:
        return blueprint.label
    return type(getattr(network, "backbone", network)).__name__
