"""Activation memory: the most bytes between its layers that a network has to keep at once."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.models.blueprint import Blueprint, build
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.models.shapes import blank_images, evaluating
from trainables.worker import kept


class _Operation(NamedTuple):
    """Storages by number: those of its arguments, and those of its results."""

    read: frozenset[int]
    written: frozenset[int]


class _Trace(TorchDispatchMode):
    """Notes the storages that every operation reads and writes.

    Tensors that are views of one another have one storage, and an operation in place returns the
    storage that it was given.

    Attributes:
        operations: in their order.
        sizes: bytes of every storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self.sizes: dict[int, int] = {}
        self._held: list[torch.UntypedStorage] = []  # no number is given twice

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append(_Operation(self.numbers((args, kwargs)), self.numbers(result)))
        return result

    def numbers(self, values: Any) -> frozenset[int]:
        """The storages of all tensors in some values."""
        return frozenset(map(self._number, _tensors(values)))

    def _number(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number not in self.sizes:
            self._held.append(storage)
            self.sizes[number] = storage.nbytes()
        return number


@torch.no_grad()
def activation_bytes(network: Network, image_shape: ImageShape) -> int:
    """The most bytes that live at once on the way from one image to its logits.

    The image and what operations return counts, from the operation that makes it to the last that
    reads it; what the logits do not follow from does not, nor do weights and what is computed from
    them alone. Views share their memory, and operations in place take none. Every operator of
    PyTorch counts as it is: a runtime that fuses some needs less, and the scratch memory inside
    of one is not seen. The number follows from the network alone: no clock, device or allocator
    decides it.

    Args:
        network: best on the ``meta`` device, where nothing is computed: elsewhere all that one
            pass computes is kept until its end.
        image_shape: ``(C, H, W)``.
    """
    images = blank_images(network, image_shape)
    with evaluating(network), _Trace() as trace:
        logits = network(images).logits
    own = trace.numbers([*network.parameters(), *network.buffers()])
    first, last = _lives(trace.operations, own, trace.numbers(images), trace.numbers(logits))
    steps = range(len(trace.operations))
    return max(
        (
            sum(trace.sizes[one] for one in first if first[one] <= step <= last[one])
            for step in steps
        ),
        default=0,
    )


def _lives(
    operations: list[_Operation], own: frozenset[int], given: frozenset[int], asked: frozenset[int]
) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last operation that needs a storage, by storage.

    Args:
        operations: in their order.
        own: storages of weights and buffers.
        given: those that are there from the beginning.
        asked: those that have to be there in the end.
    """
    constant, made = set(own), set(given)
    for one in operations:
        constant |= one.read - made  # a tensor that a module holds without having registered it
        if one.read and one.read <= constant:
            constant |= one.written
        made |= one.written
    first, last = dict.fromkeys(given, 0), dict.fromkeys(asked, len(operations) - 1)
    for step in reversed(range(len(operations))):
        read, written = operations[step]
        if not written & last.keys():
            continue  # nothing that is needed follows from it
        for storage in (read | written & last.keys()) - constant:
            last.setdefault(storage, step)
    for step, one in enumerate(operations):
        for storage in one.written & last.keys():
            first.setdefault(storage, step)
    return {storage: first[storage] for storage in last}, last


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors([*values.values()])


@kept("activation memory", entries=256)
def activation_bytes_of(blueprint: Blueprint, classes: int, image_shape: ImageShape) -> int:
    """`activation_bytes` of the network of a blueprint, once per process."""
    with torch.device("meta"):
        return activation_bytes(build(blueprint, classes, image_shape), image_shape)
