"""What a learner makes of an update rule: its optimizer, and who is updated by what."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.models.outputs import Network
from trainables.optimizers.registry import OPTIMIZERS, config_of
from trainables.optimizers.rule import Rule, Weight

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def named_weights(network: Network, adaptors: nn.Module | None = None) -> list[Weight]:
    """The weights of a network in their order, then those of adaptors."""
    blocks = _blocks(network)
    own = [Weight(name, p, blocks.get(p, 0)) for name, p in network.named_parameters()]
    further = adaptors.named_parameters() if adaptors is not None else ()
    return [*own, *(Weight(f"method.{name}", parameter) for name, parameter in further)]


def _blocks(network: Network) -> dict[Tensor, int]:
    """How many matrices the kernel of a hidden layer is. One row or column is a vector."""
    layers = [module for module in network.modules() if isinstance(module, _LAYERS)]
    found: dict[Tensor, int] = {}
    for layer in layers[1:]:
        kernel, groups = layer.weight, getattr(layer, "groups", 1)
        if layer is not network.classifier and min(len(kernel) // groups, kernel[0].numel()) > 1:
            found[kernel] = groups
    return found


def make_optimizer(
    trial: TrialConfig, weights: Sequence[Weight], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer that a trial asks for."""
    found: Any = OPTIMIZERS[trial.optimizer]
    if isinstance(found, type) and issubclass(found, Rule):
        return found(config_of(trial.optimizer, trial.rule)).build(trial, weights, device)
    made: torch.optim.Optimizer = found(trial, [weight.parameter for weight in weights], device)
    return made


def groups_of(
    optimizer: torch.optim.Optimizer, weights: Sequence[Weight], name: str
) -> dict[str, dict[str, Any]]:
    """Which weights which rule updates, as a row says it.

    Args:
        optimizer: as `make_optimizer` made it.
        weights: all of them.
        name: of the rule of groups that name none.

    Returns:
        By rule ``parameters``, their names, or ``all``, and ``values``, how many numbers they
        are. A weight that no group has is listed under ``none``.
    """
    trained: dict[Tensor, str] = {
        weight.parameter: weight.name for weight in weights if weight.parameter.requires_grad
    }
    rules: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        held = [p for p in group["params"] if p in trained]
        rules.setdefault(group.get("rule", name), []).extend(held)
    known = {p for own in rules.values() for p in own}
    rules["none"] = [p for p in trained if p not in known]
    return {
        rule: {
            "parameters": "all" if len(own) == len(trained) else [trained[p] for p in own],
            "values": sum(p.numel() for p in own),
        }
        for rule, own in rules.items()
        if own
    }
