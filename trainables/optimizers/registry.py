"""The update rules by name.

A new one is one file in this folder and one line in `OPTIMIZERS`. Other packages add rules under
the entry-point group ``kdsweep.optimizers``. Names are known without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainables.registry import Registry

if TYPE_CHECKING:
    from torch.optim import Optimizer

OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry(
    "optimizer",
    "kdsweep.optimizers",
    {
        "sgd": "trainables.optimizers.sgd:sgd",
        "adam": "trainables.optimizers.adam:adam",
        "adamw": "trainables.optimizers.adamw:adamw",
    },
)
"""What makes an optimiser from a trial's config, its weights and the device that they are on. Its
groups' ``lr`` is set before every step; weights without a gradient are left alone."""
