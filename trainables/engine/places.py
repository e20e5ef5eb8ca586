"""Tensors that stay where they are from trial to trial.

A CUDA graph reads and writes fixed addresses. A network whose weights lie elsewhere than those of
the last one has its passes recorded again, and the old recording is kept beside the new one. So
networks of one kind that follow one another in a process take over each other's places.
"""

import gc
import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from trainables.worker import Store

MOST = 64
"""Kinds whose places are kept; students that steps cut in their own ways are as many as trials."""

_PLACES: Store[tuple[list[Tensor], Callable[[], nn.Module | None]]] = Store(
    "weights in their places"
)


def settle(network: nn.Module, kind: Hashable) -> None:
    """Moves weights and statistics to where those of the last network of its kind were.

    While that one is still in use, they stay where they are. A network that was of another kind
    before, because an edit has changed it, leaves its former places to others.

    Args:
        network: on its device, in its memory layout; its parameters remain the same objects.
        kind: what networks with equal shapes, layout and device have in common.
    """
    own = [*network.parameters(), *network.buffers()]
    for former in [one for one, (_, owner) in _PLACES.items() if owner() is network]:
        _PLACES[former] = _PLACES[former][0], lambda: None
        for tensor in own:
            tensor.data = tensor.data.clone()
    if kind in _PLACES:
        places, owner = _PLACES[kind]
        if owner() is not None:
            gc.collect()  # it may be over, and be part of a cycle
        if owner() is not None:
            return
        with torch.no_grad():
            for tensor, place in zip(own, places, strict=True):
                tensor.data = place.copy_(tensor)
    else:
        places = [tensor.data for tensor in own]
    _PLACES.pop(kind, None)
    _PLACES[kind] = places, weakref.ref(network)  # behind the others: it is the last to go
    for old in [*_PLACES][:-MOST]:
        if _PLACES[old][1]() is None:
            del _PLACES[old]


_BUFFERS: Store[Tensor] = Store("images in their places")


def brought(values: Tensor, kind: Hashable) -> Tensor:
    """A copy of ``values`` in the one place for values of this kind, which the next call reuses.

    Args:
        values: any tensor.
        kind: what values with equal shapes, strides, dtype and device have in common.
    """
    if kind not in _BUFFERS:
        _BUFFERS[kind] = torch.empty_like(values)
    return _BUFFERS[kind].copy_(values)
