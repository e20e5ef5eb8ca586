"""Random resized crops as numbered views: drawn and cut as torchvision draws and cuts them."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from trainables.data.dataset import Content, Images
from trainables.data.resized_crops import RATIO, SCALE, crop_boxes, crop_resize, draw_boxes
from trainables.data.views import ViewPlan

CPU = torch.device("cpu")
PLAN = ViewPlan(padding=0, flip=True, seed=5, resized_crops=16)


def random_images(*shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)


def resized_by_torchvision(image: torch.Tensor, box: list[int], flip: bool) -> torch.Tensor:
    """float64 ``[C, H, W]``: crop, resize with antialiasing, flip."""
    size = list(image.shape[1:])
    view = reference.resized_crop(image.double(), *box, size, antialias=True)
    return reference.hflip(view) if flip else view


def test_views_have_numbers() -> None:
    ids = torch.arange(PLAN.number_of_views)
    assert len(ids) == 32
    offsets = PLAN.from_id(ids)
    assert torch.equal(PLAN.view_id(*offsets), ids)
    assert offsets.dy.tolist() == [*range(16)] * 2
    assert offsets.flip.tolist() == [False] * 16 + [True] * 16
    assert not offsets.dx.any()


@pytest.mark.parametrize("seed", [0, 2**40])
def test_an_epoch_shows_all_of_them_equally_often(seed: int) -> None:
    plan = ViewPlan(padding=0, flip=True, seed=seed, resized_crops=64)
    counts = torch.bincount(plan.view_ids(3, torch.arange(51_200)), minlength=128).double()
    assert len(counts) == 128
    statistic = float(((counts - 400) ** 2 / 400).sum())
    assert abs(statistic - 127) < 5 * math.sqrt(2 * 127)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(3, 33, 33), (1, 40, 25), (5, 8, 8)])
def test_a_view_is_torchvisions(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Every view: bytes within 1 (three quarters of a rounding), maps but for rounding."""
    images = random_images(PLAN.number_of_views, *shape).to(dtype)
    offsets = PLAN.from_id(torch.arange(PLAN.number_of_views))
    boxes = draw_boxes(16, *shape[1:])
    shown = PLAN.show(images, offsets)
    assert (shown.dtype, shown.shape) == (dtype, images.shape)
    expected = torch.stack(
        [
            resized_by_torchvision(image, list(boxes[box]), flip)
            for image, box, flip in zip(
                images, offsets.dy.tolist(), offsets.flip.tolist(), strict=True
            )
        ]
    )
    off = (shown.double() - expected).abs().max().item()
    assert off < (0.75 if dtype == torch.uint8 else 1e-3)


def test_the_first_box_is_not_the_whole_image_and_a_whole_image_stays_as_it_is() -> None:
    images = random_images(2, 3, 19, 23)
    whole = torch.tensor([[0, 0, 19, 23]] * 2)
    shown = crop_resize(images, whole, torch.tensor([False, True]))
    assert torch.equal(shown[0], images[0])
    assert torch.equal(shown[1], images[1].flip(2))
    assert not torch.equal(PLAN.show(images, PLAN.offsets(0, torch.arange(2))), images)


def test_flipping_before_and_after_are_one() -> None:
    """The mirrored box of the mirrored image: so is every pixel centre at a half."""
    images = random_images(16, 3, 31, 27)
    boxes = crop_boxes(16, 31, 27, CPU)
    mirrored = boxes.clone()
    mirrored[:, 1] = 27 - boxes[:, 1] - boxes[:, 3]
    no, yes = torch.zeros(16, dtype=torch.bool), torch.ones(16, dtype=torch.bool)
    for dtype, most in ((torch.uint8, 1.0), (torch.float64, 1e-4)):
        pixels = images.to(dtype)
        before = crop_resize(pixels.flip(3), mirrored, no)
        after = crop_resize(pixels, boxes, yes)
        assert (before.double() - after.double()).abs().max().item() <= most
    assert torch.equal(crop_resize(images, boxes, no).flip(3), crop_resize(images, boxes, yes))


def test_nothing_outside_a_box_is_seen() -> None:
    images = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    images[:, :, 5:9, 6:12] = 200
    shown = crop_resize(images, torch.tensor([[5, 6, 4, 6]]), torch.tensor([True]))
    assert shown.unique().tolist() == [200]


def test_a_batch_is_cut_as_its_images_are() -> None:
    images = random_images(40, 3, 24, 24)
    everything = torch.arange(40)
    together = PLAN.images(images, 5, everything)
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    for batch in (*shuffled.split(16), torch.tensor([9, 9, 9])):
        assert torch.equal(PLAN.images(images, 5, batch), together[batch])


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    """Its own draws and ours: areas, ratios and centres, by two-sample distance of Kolmogorov."""
    size, count = (96, 128), 3000
    ours = np.array(draw_boxes(count, *size), dtype=float)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.zeros(1, *size)
        drawn = [
            RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(count)
        ]
    theirs = np.array(drawn, dtype=float)
    for what in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0] + b[:, 2] / 2,
        lambda b: b[:, 1] + b[:, 3] / 2,
    ):
        both = np.sort(np.concatenate([what(ours), what(theirs)]))
        cumulated = [
            np.searchsorted(np.sort(what(boxes)), both, side="right") / count
            for boxes in (ours, theirs)
        ]
        distance = np.abs(cumulated[0] - cumulated[1]).max()
        assert distance < 2.2 * math.sqrt(2 / count), "beyond what chance does once in 10,000"
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()


def test_boxes_are_the_same_on_every_platform_and_of_every_number() -> None:
    """A table of teacher logits is indexed by their numbers."""
    assert draw_boxes(4, 227, 227) == draw_boxes(64, 227, 227)[:4]
    assert draw_boxes(2, 227, 227) == [(15, 58, 109, 85), (37, 0, 189, 223)]
    assert len(set(draw_boxes(64, 227, 227))) == 64


def test_an_image_without_room_is_cut_in_the_middle() -> None:
    assert set(draw_boxes(8, 100, 4)) == {(47, 0, 5, 4)}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (0, 64)),
        ({"padding": 4}, (4, 0)),
        ({"resized_crops": 0}, (2, 0)),
        ({"resized_crops": 8}, (0, 8)),
        ({"padding": 0}, (0, 0)),
    ],
)
def test_what_is_asked_for_goes_before_what_the_data_set_has(asked, expected) -> None:
    images = Images(random_images(2, 3, 8, 8), torch.tensor([0, 1]))
    content = Content.measure(("a", "b"), images, images)
    dataset = content.dataset("two", crop_padding=2, flip=True, resized_crops=64)
    plan = ViewPlan.of(dataset, 0, **asked)
    assert (plan.padding, plan.resized_crops) == expected


def test_padding_beside_resized_crops_is_refused() -> None:
    with pytest.raises(ValueError, match="padding"):
        ViewPlan(padding=1, flip=True, seed=0, resized_crops=4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_show_the_same_bytes() -> None:
    images = random_images(64, 3, 57, 57)
    indices = torch.arange(64)
    on_gpu = PLAN.images(images.cuda(), 3, indices.cuda())
    assert torch.equal(on_gpu.cpu(), PLAN.images(images, 3, indices))
