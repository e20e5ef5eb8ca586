"""Iterative stratification: every class keeps its share although images have several."""

import pytest
import torch
from torch import Tensor

from trainables.data.labels import IGNORED, check_labels, class_counts
from trainables.data.strata import iterative_split, iterative_subset


def labels(images: int = 600, seed: int = 0) -> Tensor:
    """Four classes, from frequent to rare, of which images have none to all."""
    draw = torch.Generator().manual_seed(seed)
    shares = torch.tensor([0.6, 0.3, 0.1, 0.02])
    return (torch.rand(images, 4, generator=draw) < shares).to(torch.uint8)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_every_class_keeps_its_share(fraction: float) -> None:
    rest, out = iterative_split(labels(), fraction, seed=3)
    assert torch.equal(torch.cat([rest, out]).sort().values, torch.arange(600))
    for part in (rest, out):
        assert torch.equal(part, part.sort().values)
    assert abs(len(out) - 600 * fraction) <= 2
    wanted = fraction * class_counts(labels(), 4)
    assert (class_counts(labels()[out], 4) - wanted).abs().max() <= 1.5


def test_it_deals_better_than_chance() -> None:
    """Of the rarest class the first images would hold out any number."""
    rare = labels()[:, 3].sum().item()
    found = {int(labels()[iterative_split(labels(), 0.5, seed)[1], 3].sum()) for seed in range(20)}
    assert found <= {rare // 2, rare - rare // 2}


def test_the_seed_decides() -> None:
    first, again = (iterative_split(labels(), 0.2, seed=1)[1] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, iterative_split(labels(), 0.2, seed=2)[1])


def test_it_is_frozen() -> None:
    """Whoever changes it changes the validation images of every sweep."""
    some = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0], [0, 0], [1, 0], [0, 1]])
    _, out = iterative_split(some.to(torch.uint8), 0.5, seed=0)
    assert len(out) == 4
    assert class_counts(some[out], 2).tolist() in ([2, 1], [2, 2])
    assert out.tolist() == FROZEN


FROZEN = [0, 1, 3, 5]


def test_nothing_is_held_out_at_0() -> None:
    rest, out = iterative_split(labels(), 0, seed=0)
    assert (len(rest), len(out)) == (600, 0)


def test_what_is_ignored_is_no_yes() -> None:
    marked = labels()
    marked[marked[:, 0] == 0, 3] = IGNORED
    plain = torch.where(marked == IGNORED, 0, marked)
    assert torch.equal(iterative_split(marked, 0.2, 0)[1], iterative_split(plain, 0.2, 0)[1])


@pytest.mark.parametrize("fraction", [0.02, 0.3])
def test_a_subset_has_an_image_of_every_class(fraction: float) -> None:
    indices = torch.arange(100, 600)
    kept = iterative_subset(labels(), indices, fraction, seed=0)
    assert set(kept.tolist()) <= set(indices.tolist())
    assert (class_counts(labels()[kept], 4) >= 1).all()
    assert abs(len(kept) - 500 * fraction) <= 4
    assert torch.equal(iterative_subset(labels(), indices, 1, seed=0), indices)


@pytest.mark.parametrize(
    "call",
    [
        lambda: iterative_split(labels(), 1.0, 0),
        lambda: iterative_subset(labels(), torch.arange(5), 0.0, 0),
    ],
)
def test_a_fraction_out_of_its_range_is_refused(call) -> None:
    with pytest.raises(ValueError, match="fraction must be in"):
        call()


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (torch.zeros(5, 3), r"expected uint8 or bool \[5, 3\], got float32 \[5, 3\]"),
        (torch.zeros(5, 2, dtype=torch.bool), r"got bool \[5, 2\]"),
        (torch.full((5, 3), 7, dtype=torch.uint8), "expected 0, 1 or 255, got 7"),
    ],
)
def test_labels_of_another_form_are_refused(wrong: Tensor, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_labels(wrong, 5, 3)
