"""Scores of a student's maps beside its teacher's, and what must not pass for preserved."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from trainables.attribution.preservation import (
    MEASURES,
    compare,
    corrected,
    others,
    ssim,
    top_overlap,
)
from trainables.attribution.ranks import FLAT, empty


def some_maps(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Smooth ones, each with a blob of its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, 1, 1, generator=generator) * side
    grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij")).float()
    noise = 0.05 * torch.randn(count, side, side, generator=generator)
    return torch.exp(-((grid - centres) ** 2).sum(1) / 20) + noise


def test_equal_maps_are_preserved_whatever_their_scale() -> None:
    maps = some_maps(5)
    for scale in (1.0, 1e-30, 1e30):
        for name, values in compare(maps, scale * maps).items():
            assert values.tolist() == pytest.approx([1.0] * 5, abs=1e-6), (name, scale)


def test_spearman_is_scipys() -> None:
    one, other = some_maps(3), some_maps(3, seed=1)
    one, other = one.clamp_min(0.3), other.round(decimals=1)  # many ties
    found = compare(one, other)["spearman"]
    for index in range(3):
        expected = spearmanr(one[index].flatten(), other[index].flatten()).statistic
        assert found[index].item() == pytest.approx(expected, abs=1e-12)


def test_cosine_is_its_formula() -> None:
    one, other = some_maps(2), some_maps(2, seed=1)
    a, b = one[1].double().flatten().numpy(), other[1].double().flatten().numpy()
    expected = a @ b / math.sqrt((a @ a) * (b @ b))
    assert compare(one, other)["cosine"][1].item() == pytest.approx(expected, abs=1e-12)


def scipys_ssim(one: np.ndarray, other: np.ndarray, radius: int) -> float:
    one, other = ((v - v.min()) / (v.max() - v.min()) for v in (one, other))

    def mean(values: np.ndarray) -> np.ndarray:
        found = gaussian_filter(values, 1.5, radius=radius)
        return found[radius:-radius, radius:-radius]

    x, y = mean(one), mean(other)
    xx, yy, xy = mean(one**2) - x**2, mean(other**2) - y**2, mean(one * other) - x * y
    c, d = 0.01**2, 0.03**2
    parts = (2 * x * y + c) * (2 * xy + d) / ((x**2 + y**2 + c) * (xx + yy + d))
    return float(parts.mean())


@pytest.mark.parametrize(("side", "radius"), [(16, 5), (8, 3), (11, 5)])
def test_ssim_is_that_of_gaussian_filters(side: int, radius: int) -> None:
    one, other = some_maps(2, side).double(), some_maps(2, side, seed=1).double()
    found = ssim(one, other)
    for index in range(2):
        expected = scipys_ssim(one[index].numpy(), other[index].numpy(), radius)
        assert found[index].item() == pytest.approx(expected, abs=1e-10)


def test_top_overlap_counts_places() -> None:
    one = torch.arange(20.0).view(1, -1)
    assert top_overlap(one, one.flip(1)).tolist() == [0.0]
    assert top_overlap(one, one.roll(1, 1)).tolist() == [0.5]
    assert top_overlap(one, one).tolist() == [1.0]


def test_ties_at_the_edge_do_not_fall_on_the_same_places_by_their_order() -> None:
    # One place is certain, the other is shared by nineteen: 1/19 of each.
    one, other = torch.zeros(1, 20), torch.zeros(1, 20)
    one[0, 3] = other[0, 17] = 1
    by_hand = (1 / 19 + 1 / 19 + 18 / 19) / 2
    assert top_overlap(one, other).tolist() == pytest.approx([by_hand])


FLATS = {
    "zeros": torch.zeros(4, 16, 16),
    "constant": torch.full((4, 16, 16), 0.3),
    "no numbers": torch.full((4, 16, 16), math.nan),
    "infinite": torch.full((4, 16, 16), math.inf),
    "some infinite": torch.arange(1024.0).view(4, 16, 16) / torch.tensor([0.0] + [1] * 15),
    "rounding": 1 + 1e-7 * torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("name", FLATS)
def test_collapsed_maps_are_never_preserved(name: str) -> None:
    flat = FLATS[name]
    assert empty(flat).all()
    for other in (some_maps(4), flat):
        for pair in ((flat, other), (other, flat)):
            for measure, values in compare(*pair).items():
                assert values.tolist() == [0.0] * 4, measure
    assert not empty(some_maps(4) * 1e-20).any(), "a scale is no emptiness"
    assert not empty(torch.tensor([[0.0, 3 * FLAT, 1.0]])).any()


def test_one_collapsed_map_does_not_touch_the_others() -> None:
    one, other = some_maps(4), some_maps(4, seed=1)
    before = compare(one, other)
    one[2] = math.nan
    for measure, values in compare(one, other).items():
        kept = [0, 1, 3]
        assert values[kept].tolist() == before[measure][kept].tolist()
        assert values[2] == 0


CLASSES = torch.tensor([0, 1, 0, 2, 1, 0, 3])


def test_others_are_of_the_same_class_where_there_are_any() -> None:
    here, there = others(CLASSES)
    assert sorted(here.tolist()) == sorted(there.tolist()) == [*range(7)]
    for one, other in zip(here.tolist(), there.tolist(), strict=True):
        assert one != other
        assert CLASSES[one] == CLASSES[other] or {one, other} == {3, 6}


@pytest.mark.parametrize(("classes", "count"), [([], 0), ([4], 0), ([1, 1, 2], 2), ([1, 2], 2)])
def test_others_of_few(classes: list[int], count: int) -> None:
    here, there = others(torch.tensor(classes, dtype=torch.int64))
    assert len(here) == len(there) == count


def preservation(teacher: torch.Tensor, student: torch.Tensor, measure: str) -> float:
    here, there = others(CLASSES)
    value = compare(teacher, student)[measure].mean().item()
    return corrected(value, compare(teacher[there], student[here])[measure].mean().item())


@pytest.mark.parametrize("measure", MEASURES)
def test_maps_that_do_not_depend_on_the_image_are_worth_nothing(measure: str) -> None:
    teacher = some_maps(7) + 3  # far from zero: any two maps have a cosine near 1
    of_class = some_maps(4, seed=9)[CLASSES].clone()
    for cheat in (some_maps(1, seed=5).expand(7, -1, -1), teacher.mean(0).expand(7, -1, -1)):
        assert preservation(teacher, cheat, measure) == pytest.approx(0, abs=1e-9)
    of_class[6] = of_class[3]  # alone in their classes, they are compared with each other
    assert preservation(teacher, of_class, measure) == pytest.approx(0, abs=1e-9)
    assert preservation(teacher, teacher, measure) == pytest.approx(1)
    assert preservation(teacher, -teacher, measure) < 0.2


def test_correction_by_hand() -> None:
    assert corrected(0.8, 0.5) == pytest.approx(0.6)
    assert corrected(0.8, 0.5, 0.75) == pytest.approx(0.2)
    assert corrected(0.8, None, math.nan) == 0.8
    assert corrected(0.8, -0.5) == 0.8, "being worse on others earns nothing"
    assert corrected(0.3, 0.5) == 0
    assert corrected(1.0, 1.0) == 0, "where all maps are one, nothing is shown by that one"
    assert corrected(math.nan) == 0
