"""Costs: what a row says of a network that is there, and what is known of one that is to come."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainables.compression.measure import count_params, macs_of, nonzero_params, size_bytes
from trainables.compression.step import COSTS, Span, Step
from trainables.constraints import Constraint
from trainables.measurement.activations import activation_bytes_of
from trainables.measurement.operations import bit_operations_of
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.objectives import timed_with, value_of

_FACTORS = {"compression_params": "params", "compression_macs": "macs"}
_FACTORS |= {"compression_bytes": "size_bytes"}
"""Factors of compression: what they are the teacher's share of."""


def costs_of(network: Network, image_shape: ImageShape) -> dict[str, int]:
    """Parameters, those that are not zero, operations and bytes, by column of ``trials``."""
    what = network.blueprint, network.classifier.out_features, image_shape
    return {
        "params": count_params(network),
        "nonzero_params": nonzero_params(network),
        "macs": macs_of(*what),
        "size_bytes": size_bytes(network),
        "bit_operations": bit_operations_of(*what),
    }


def peak_of(network: Network, image_shape: ImageShape) -> int:
    """`activations.activation_bytes` of the network's blueprint."""
    return activation_bytes_of(network.blueprint, network.classifier.out_features, image_shape)


def foreseeable(name: str) -> bool:
    """Whether an objective is a cost that a student has before its training."""
    return _cost(name) is not None


def _cost(name: str) -> str | None:
    if timed_with(name):
        return "latency_ms"
    return _FACTORS.get(name, name if name in COSTS else None)


def foreseen(
    constraints: Iterable[Constraint], row: Mapping[str, Any], left: Sequence[Step], done: float
) -> dict[str, float]:
    """The values by which a student will violate constraints whatever its training brings.

    Where steps of its chain are left, it is the value nearest to the bound that they allow; what
    they leave open is not judged.

    Args:
        constraints: of the study.
        row: of ``trials``, with the student's costs as it is.
        left: its steps with moments that have not come.
        done: share of the training before which the moments have come.

    Returns:
        By column; only of constraints that cannot be kept any more.
    """
    found = {}
    for one in constraints:
        cost, value = _cost(one.name), value_of(row, one.name)
        if cost is None or value is None:
            continue
        low, high = _span(cost, left, done)
        if one.name in _FACTORS:
            low, high = 1 / high if high else math.inf, 1 / low if low else math.inf
        best = value * (low if one.upper else high)
        if one.excess(best) > 0:
            found[one.name] = best
    return found


def _span(cost: str, left: Sequence[Step], done: float) -> Span:
    low = high = 1.0
    for step in left:
        least, greatest = step.spans().get(cost, (1.0, 1.0))
        if any(moment <= done for moment in step.moments):
            greatest = max(1.0, greatest)  # some of it has happened
        low, high = low * least, high * greatest
    return low, high
