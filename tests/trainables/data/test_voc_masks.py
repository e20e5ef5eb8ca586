"""Masks beside images: what becomes of their values, and which are refused."""

import shutil
from functools import partial
from pathlib import Path

import devkit
import numpy as np
import pytest
import torch
from devkit import SIZE, Devkit, refusal, regions, small
from PIL import Image

from trainables.data.dataset import VOID, Images, Masks

SIDE = 16
load = partial(devkit.load, size=SIDE)


@pytest.fixture
def kit(tmp_path: Path) -> Devkit:
    return small(tmp_path / "data")


def masks_of(part: Images) -> Masks:
    assert part.masks is not None
    return part.masks


def test_masks_are_there_where_a_file_is(kit: Devkit) -> None:
    kit.mask("c", regions(0, 12))
    data = load(kit)
    train, test = masks_of(data.train), masks_of(data.read_test())
    assert (train.positions.tolist(), test.positions.tolist()) == ([0, 2], [0])
    assert train.positions.dtype == torch.int64
    assert train.values.dtype == torch.uint8
    assert train.values.shape == (2, SIDE, SIDE)
    assert (len(train), len(test)) == (2, 1)
    assert set(train.values[1].unique().tolist()) == {0, 12}


@pytest.mark.parametrize("size", [5, 8, 16, 50])
def test_every_value_of_a_mask_is_that_of_its_nearest_pixel(kit: Devkit, size: int) -> None:
    draw = np.random.RandomState(0)
    before = draw.choice([0, 1, 15, 20, VOID], size=tuple(reversed(SIZE)))
    kit.mask("a", before)
    after = masks_of(load(kit, size=size).train).values[0].numpy()
    assert set(np.unique(after)) <= set(np.unique(before))
    # Pixel i's middle is at (i + 1/2) side / size; on the border of two pixels, either will do.
    middles = [np.divmod((2 * np.arange(size) + 1) * side, 2 * size) for side in before.shape]
    (rows, row_rest), (columns, column_rest) = middles
    inner = np.ix_(row_rest > 0, column_rest > 0)
    assert (after[inner] == before[np.ix_(rows, columns)][inner]).all()
    assert after[inner].size > 0.5 * after.size


def test_void_stays_void(kit: Devkit) -> None:
    values = masks_of(load(kit).train).values[0]
    # A third each: background, a person, void; no pixel of another class lies between.
    third = (values == 15).nonzero()[:, 1]
    assert (values[:, : int(third.min())] == 0).all()
    assert (values[:, int(third.max()) + 1 :] == VOID).all()
    assert set(values.unique().tolist()) == {0, 15, VOID}


def test_a_mask_lies_where_its_image_does(kit: Devkit) -> None:
    """Both are squeezed: what is red in the image is of the class in the mask."""
    width, height = 48, 20
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[10:, 24:, 0] = 255
    kit.image("a", pixels)
    kit.mask("a", np.where(pixels[..., 0] > 0, 15, 0))
    data = load(kit)
    red = data.train.images[0, 0] > 127
    assert torch.equal(red, masks_of(data.train).values[0] == 15)
    assert red.float().mean() == 0.25


# What is refused


def test_segmentation_wants_every_mask(kit: Devkit) -> None:
    kit.mask_file("d").unlink()
    assert load(kit).read_test().masks is None
    expected = f"{kit.mask_file('d')}: is missing, and ImageSets/Segmentation/val.txt names d"
    assert refusal(kit, "voc2012_segmentation") == expected
    shutil.rmtree(kit.root / "SegmentationClass")
    assert str(kit.mask_file("a")) in refusal(kit, "voc2012_segmentation")
    shutil.rmtree(kit.root / "Annotations")
    assert str(kit.mask_file("a")) in refusal(kit)


@pytest.mark.parametrize("size", [20, 40, 60])
def test_a_damaged_mask_is_named(kit: Devkit, size: int) -> None:
    file = kit.mask_file("a")
    file.write_bytes(file.read_bytes()[:size])
    assert f"{file}: the mask does not decode: " in refusal(kit)


def test_colours_are_no_classes(kit: Devkit) -> None:
    """Masks whose palette was resolved: what class a colour is would be a guess."""
    file = kit.mask_file("a")
    with Image.open(file) as image:
        image.convert("RGB").save(file)
    expected = f"{file}: expected a mask of class numbers (a palette, or grey), it is RGB"
    assert refusal(kit) == expected


def test_grey_numbers_are_classes(kit: Devkit) -> None:
    before = masks_of(load(kit).train).values.clone()
    Image.fromarray(regions(0, 15, VOID).astype(np.uint8)).save(kit.mask_file("a"))
    assert torch.equal(masks_of(load(kit).train).values, before)


def test_a_mask_of_another_size_is_refused(kit: Devkit) -> None:
    kit.mask("a", np.full((12, 8), 15))
    expected = f"{kit.mask_file('a')}: the mask has 8x12 pixels, its image 12x8"
    assert refusal(kit) == expected


def test_an_image_that_is_turned_upright_wants_a_mask_that_stands_upright(kit: Devkit) -> None:
    with Image.open(kit.image_file("a")) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # a quarter to the right
        image.save(kit.image_file("a"), exif=exif)
    assert "the mask has 12x8 pixels, its image 8x12" in refusal(kit)
    kit.mask("a", np.rot90(regions(0, 15, VOID), -1))
    assert masks_of(load(kit).train).values[0, 0].unique().tolist() == [0]


def test_a_class_that_voc_has_not_is_refused(kit: Devkit) -> None:
    kit.mask("a", regions(0, 21, 254, VOID))
    assert refusal(kit) == (
        f"{kit.mask_file('a')}: expected classes up to 20 and 255 for void, it has 21, 254"
    )
