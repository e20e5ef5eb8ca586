"""Pairs of stages against all order-keeping assignments."""

import itertools
import math
import random

import pytest

from trainables.errors import UserError
from trainables.methods.stages import pair_stages
from trainables.models.outputs import Shapes

Sizes = tuple[int, ...]


def shapes(sizes: Sizes) -> Shapes:
    return Shapes(10, 8, tuple((4, size, size) for size in sizes))


def cost(pairs: list[tuple[int, int]], ours: Sizes, theirs: Sizes) -> float:
    return sum(2 * abs(math.log2(ours[i] / theirs[j])) for i, j in pairs)


def assignments(ours: Sizes, theirs: Sizes) -> list[list[tuple[int, int]]]:
    """Every way to give each stage of the shorter list its own of the longer, in order."""
    if len(ours) > len(theirs):
        return [[(j, i) for i, j in pairs] for pairs in assignments(theirs, ours)]
    chosen = itertools.combinations(range(len(theirs)), len(ours))
    return [list(enumerate(partners)) for partners in chosen]


def test_no_order_keeping_assignment_is_nearer() -> None:
    draw = random.Random(0)
    for _ in range(300):
        ours, theirs = (
            tuple(sorted((draw.randint(1, 64) for _ in range(draw.randint(1, 6))), reverse=True))
            for _ in range(2)
        )
        pairs = pair_stages(shapes(ours), shapes(theirs))
        every = assignments(ours, theirs)
        assert pairs in every
        least = min(cost(other, ours, theirs) for other in every)
        assert cost(pairs, ours, theirs) == pytest.approx(least)


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        ((32, 16, 8), (32, 16, 8), [(0, 0), (1, 1), (2, 2)]),
        ((8, 4, 2), (32, 16, 8), [(0, 0), (1, 1), (2, 2)]),  # equally many: in order
        ((32, 16, 8), (16, 8, 4, 2), [(0, 0), (1, 1), (2, 2)]),
        ((16, 8, 4, 2), (32, 16, 8), [(0, 0), (1, 1), (2, 2)]),
        ((32, 16, 8, 4, 2), (16, 8), [(1, 0), (2, 1)]),
        ((8,), (32, 16, 8), [(0, 2)]),
        ((8,), (16, 4), [(0, 1)]),  # equally near: the deeper
    ],
)
def test_by_hand(ours: Sizes, theirs: Sizes, pairs: list[tuple[int, int]]) -> None:
    assert pair_stages(shapes(ours), shapes(theirs)) == pairs


def test_swapping_the_networks_swaps_the_pairs() -> None:
    ours, theirs = shapes((32, 9, 3)), shapes((16, 8, 4, 2))
    there = pair_stages(ours, theirs)
    assert [(j, i) for i, j in pair_stages(theirs, ours)] == there


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_without_maps_is_named(who: str) -> None:
    pair = {"student": shapes((8,)), "teacher": shapes((8,)), who: shapes(())}
    with pytest.raises(UserError, match=f"the {who} has no spatial"):
        pair_stages(**pair)
