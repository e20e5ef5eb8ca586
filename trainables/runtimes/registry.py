"""The runtimes by name. Names are known without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.registry import Registry

if TYPE_CHECKING:
    from trainables.runtimes.runtime import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime",
    "kdsweep.runtimes",
    {
        "eager": "trainables.runtimes.eager:Eager",
        "onnx": "trainables.runtimes.onnx:Onnx",
    },
)
"""What can run a trained network. Other packages add theirs under the entry-point group."""
