"""Masks: weights that are zero and stay it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.blueprint import Edit, module_of
from trainables.models.edits import MASK
from trainables.models.outputs import Network


@dataclass(frozen=True)
class Masked(Edit):
    """Modules whose weights have a mask, which lies beside them as a buffer, with one bool for
    each weight: True where it may be other than zero. A weight that happens to be zero is not
    masked for that.

    Attributes:
        modules: their names, sorted.
    """

    kind: ClassVar[str] = "masked"

    modules: tuple[str, ...] = ()

    def apply(self, network: Network) -> None:
        for name in self.modules:
            module = module_of(network, name)
            weight = getattr(module, "weight", None)
            if not isinstance(weight, Tensor):
                raise UserError(f"edit: module '{name}' has no weight of its own")
            if MASK not in module._buffers:
                module.register_buffer(MASK, torch.ones_like(weight, dtype=torch.bool))

    def to_dict(self) -> dict[str, Any]:
        return {"modules": list(self.modules)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Masked":
        return cls(tuple(values["modules"]))


def masks(network: nn.Module) -> dict[str, Tensor]:
    """The masks of a network by the name of the module, each of its weight's shape, bool."""
    found = {}
    for name, module in network.named_modules():
        mask = module._buffers.get(MASK)
        if mask is not None:
            found[name] = mask
    return found


@torch.no_grad()
def apply_masks(network: nn.Module) -> None:
    """Makes every masked weight zero."""
    for module in network.modules():
        mask = module._buffers.get(MASK)
        if mask is not None:
            module.get_parameter("weight").mul_(mask)
