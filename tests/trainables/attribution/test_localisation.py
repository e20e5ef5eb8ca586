"""Scores of maps against masks, beside plain loops and scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from trainables.attribution.explainer import Explainer
from trainables.attribution.localisation import (
    THRESHOLD,
    Localised,
    localise,
    miou,
    pairs_of,
    resized,
)
from trainables.data.dataset import VOID


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_masks(count: int, side: int) -> torch.Tensor:
    """Of three classes, background and void."""
    values = torch.tensor([0, 1, 2, 3, VOID], dtype=torch.uint8)
    return values[torch.randint(5, (count, side, side), generator=generator(1))]


def one(maps: list, mask: list, class_: int = 0) -> Localised:
    return localise(
        torch.tensor([maps], dtype=torch.float32),
        torch.tensor([mask], dtype=torch.uint8),
        torch.tensor([class_]),
    )


QUARTERS = [[1, 1, VOID, VOID], [1, 1, VOID, VOID], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_void_counts_neither_way() -> None:
    found = one([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], QUARTERS)
    assert found.iou.tolist() == [1.0]
    assert found.auc.tolist() == [1.0]
    assert found.pointing.tolist() == [1.0]
    assert not found.empty.item()


def test_the_greatest_value_in_void_is_not_where_a_map_points() -> None:
    found = one([[1, 0, 9, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]], QUARTERS)
    assert found.pointing.tolist() == [0.0], "2, on the background, is the greatest that counts"
    assert (found.intersection.item(), found.union.item()) == (1, 5)


def test_beside_scikit_learn_and_loops() -> None:
    masks = some_masks(3, 9)
    images, classes = pairs_of(masks)
    assert len(images) == 9
    maps = torch.randn(9, 9, 9, generator=generator()).round(decimals=1)  # with ties
    found = localise(maps, masks[images], classes)
    for index, (image, class_) in enumerate(zip(images.tolist(), classes.tolist(), strict=True)):
        mask, values = masks[image].numpy(), maps[index].numpy()
        counted = mask != VOID
        inside = mask == class_ + 1
        auc = roc_auc_score(inside[counted], values[counted])
        assert found.auc[index].item() == pytest.approx(auc, abs=1e-12)
        top, both, either = values[counted].max(), 0, 0
        tops = []
        for y in range(9):
            for x in range(9):
                if mask[y, x] == VOID:
                    continue
                if values[y, x] == top:
                    tops.append(bool(inside[y, x]))
                hit = values[y, x] > np.float32(THRESHOLD) * top
                both += hit and inside[y, x]
                either += hit or inside[y, x]
        assert found.iou[index].item() == pytest.approx(both / either)
        assert found.pointing[index].item() == pytest.approx(np.mean(tops))


def test_every_class_has_its_own_foreground() -> None:
    mask = [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 2]]
    images, classes = pairs_of(torch.tensor([mask], dtype=torch.uint8))
    assert (images.tolist(), classes.tolist()) == ([0, 0], [0, 1])
    first = torch.zeros(4, 4)
    first[0, 0] = 1
    masks = torch.tensor([mask], dtype=torch.uint8)[images]
    found = localise(first.expand(2, 4, 4), masks, classes)
    assert found.pointing.tolist() == [1.0, 0.0]
    assert found.auc[1] < 0.5


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, float("nan"), float("inf")])
def test_a_constant_map_is_no_hit_at_the_first_pixel(value: float) -> None:
    found = one(torch.full((4, 4), value).tolist(), QUARTERS)
    assert found.auc.tolist() == [0.5]
    assert found.pointing.tolist() == [0.0]
    assert found.iou.tolist() == [0.0]
    assert found.empty.tolist() == [True]


def test_rounding_of_a_resized_constant_is_no_order() -> None:
    masks = some_masks(1, 37)
    found = localise(torch.full((1, 5, 5), 0.1), masks, torch.tensor([0]))
    assert found.empty.tolist() == [True]
    assert found.auc.tolist() == [0.5]
    noisy = torch.full((1, 37, 37), 0.1) + 1e-8 * torch.randn(1, 37, 37, generator=generator())
    assert localise(noisy, masks, torch.tensor([0])).auc.tolist() == [0.5]


def test_a_map_constant_but_on_void_says_nothing() -> None:
    found = one([[0, 0, 5, 5], [0, 0, 5, 5], [0, 0, 0, 0], [0, 0, 0, 0]], QUARTERS)
    assert (found.auc.item(), found.pointing.item(), found.empty.item()) == (0.5, 0.0, True)


def test_what_speaks_against_a_class_everywhere_covers_nothing() -> None:
    found = one([[-1, -1, 0, 0], [-1, -1, 0, 0], [-2, -2, -2, -2], [-2, -2, -2, -2]], QUARTERS)
    assert found.auc.tolist() == [1.0]
    assert found.iou.tolist() == [0.0]


def test_a_pair_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = some_masks(4, 8)
    images, classes = pairs_of(masks)
    maps = torch.randn(len(images), 8, 8, generator=generator())
    together = localise(maps, masks[images], classes)
    monkeypatch.setattr("trainables.attribution.localisation.AT_ONCE", 100)
    for ours, theirs in zip(localise(maps, masks[images], classes), together, strict=True):
        assert torch.equal(ours, theirs)


def test_a_class_that_fills_the_image_has_no_area_under_a_curve() -> None:
    found = one([[1, 2], [3, 4]], [[1, 1], [1, VOID]])
    assert found.auc.isnan().all()
    assert found.pointing.tolist() == [1.0]


def test_corners_are_not_aligned() -> None:
    small = torch.zeros(1, 4, 4)
    small[0, 1, 1] = 1
    large = resized(small, (32, 32))
    peak = (large[0] == large.max()).nonzero().double().mean(0)
    assert peak.tolist() == [11.5, 11.5]
    assert torch.equal(resized(small.flip(2), (32, 32)), large.flip(2))
    assert resized(large, (32, 32)) is large


def test_an_explainers_maps_are_brought_to_size_alike() -> None:
    class Hot(Explainer):
        def attribute(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            found = torch.zeros(1, 1, 4, 4)
            found[..., 1, 1] = 1
            return found

    maps = Hot(None, None).maps(torch.zeros(1, 3, 32, 32), torch.zeros(1))  # type: ignore[arg-type]
    small = torch.zeros(1, 4, 4)
    small[0, 1, 1] = 1
    assert torch.equal(maps, resized(small, (32, 32)))


def test_miou_is_of_classes_and_counts_pixels_of_all_their_images() -> None:
    found = Localised(
        auc=torch.zeros(3),
        pointing=torch.zeros(3),
        intersection=torch.tensor([1, 8, 1]),
        union=torch.tensor([1, 16, 4]),
        empty=torch.zeros(3, dtype=torch.bool),
    )
    assert miou(found, torch.tensor([5, 5, 2])) == pytest.approx((9 / 17 + 1 / 4) / 2)
    assert found.iou.tolist() == [1.0, 0.5, 0.25]
