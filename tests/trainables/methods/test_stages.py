"""Pairs of stages against all order-keeping assignments."""

import itertools
import math
import random

import pytest

from trainables.errors import UserError
from trainables.methods.stages import chosen_pairs, pair_stages
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


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ("all", [0, 1, 2]),
        ("last", [2]),
        ("0", [0]),
        ("1", [1]),
        ("0,2", [0, 2]),
        ("2, 0", [0, 2]),  # early to deep, in whatever order they are named
        ("0,1,2", [0, 1, 2]),
    ],
)
def test_a_choice_of_pairs(choice: str, numbers: list[int]) -> None:
    student, teacher = shapes((16, 8, 4, 2)), shapes((32, 16, 8))
    every = pair_stages(student, teacher)
    assert chosen_pairs("at.stages", choice, student, teacher) == [every[n] for n in numbers]


@pytest.mark.parametrize("choice", ["3", "-1", "0,3", "0,0", "first", "0,", ",", "1.0", "All"])
def test_a_wrong_choice_is_named_with_the_pairs(choice: str) -> None:
    student, teacher = shapes((16, 8, 4, 2)), shapes((32, 16, 8))
    with pytest.raises(
        UserError, match=rf"^at\.stages: expected all, last.* got '{choice}'"
    ) as found:
        chosen_pairs("at.stages", choice, student, teacher)
    assert "0 (4x16x16 and 4x32x32), 1 (4x8x8 and 4x16x16), 2 (4x4x4 and 4x8x8)" in str(found.value)
    assert "\n" not in str(found.value)
