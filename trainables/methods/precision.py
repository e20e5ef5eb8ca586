"""Losses in full precision, whatever the networks compute in."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Loss = TypeVar("Loss", bound=Callable[..., Any])


def full_precision(loss: Loss) -> Loss:
    """Takes a loss out of autocast, which would run its matrix products in half precision.

    Args:
        loss: a function whose first argument is a tensor.
    """

    @functools.wraps(loss)
    def outside_autocast(first: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if first.is_meta:  # there is no autocast for it
            return loss(first, *rest, **options)
        with torch.autocast(first.device.type, enabled=False):
            return loss(first, *rest, **options)

    return outside_autocast  # type: ignore[return-value]
