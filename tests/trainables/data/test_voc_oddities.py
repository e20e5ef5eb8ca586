"""PASCAL VOC as people really have it: what is read all the same, and what is refused by name."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from devkit import SIZE, Devkit, load, refusal, regions, small
from PIL import Image

from trainables.attribution.localisation import pairs_of
from trainables.attribution.scoring import pairs_for
from trainables.data.dataset import VOID, Dataset
from trainables.data.labels import IGNORED
from trainables.data.voc import CLASSES

PERSON, DOG = (CLASSES.index(name) for name in ("person", "dog"))


@pytest.fixture
def kit(tmp_path: Path) -> Devkit:
    return small(tmp_path / "data")


def same(one: Dataset, other: Dataset) -> bool:
    return one is not other and one.fingerprint == other.fingerprint


# Lists


@pytest.mark.parametrize(
    "content", [b"a\r\nb\r\nc\r\n", b"\n a\n\n\tb \n  \nc", b"\xef\xbb\xbfa\nb\nc\n", b"a\rb\rc\r"]
)
def test_lists_may_have_any_ends_of_lines(kit: Devkit, content: bytes) -> None:
    before = load(kit)
    kit.list_file("Main/train").write_bytes(content)
    assert same(load(kit), before)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a  1\nb -1\n", "expected a name of an image a line, found 'a  1'"),
        (b"a b\nc\n", "expected a name of an image a line, found 'a b'"),
        ("a\nb\n".encode("utf-16"), "cannot be read: expected a name of an image a line"),
        (b" \r\n\n", "expected names of images, found none"),
        (b"a\nb\na\nb\n", "names a, b more than once"),
    ],
)
def test_other_lists_are_refused(kit: Devkit, content: bytes, expected: str) -> None:
    kit.list_file("Main/train").write_bytes(content)
    assert refusal(kit) == f"{kit.list_file('Main/train')}: {expected}"


def test_an_image_of_both_lists_is_said(kit: Devkit) -> None:
    kit.lists("Main", "a b c d", "d e")
    assert any("1 of 2 test images are training images as well" in one for one in load(kit).notes)


# Names of files


@pytest.mark.parametrize(
    ("kind", "ending"), [("image", ".JPG"), ("image", ".jpeg"), ("mask", ".PNG"), ("xml", ".XML")]
)
def test_endings_may_be_in_capitals(kit: Devkit, kind: str, ending: str) -> None:
    before = load(kit)
    file = getattr(kit, f"{kind}_file")("a")
    file.rename(file.with_suffix(ending))
    assert same(load(kit), before)


def test_what_is_not_there_is_called_as_voc_calls_it(kit: Devkit) -> None:
    kit.image_file("a").rename(kit.root / "JPEGImages" / "a.webp")
    assert refusal(kit).startswith(f"{kit.image_file('a')}: is missing")


@pytest.mark.parametrize("name", ["voc2012", "voc2012_segmentation"])
def test_a_mask_is_no_annotation(kit: Devkit, name: str) -> None:
    """Labels of some images by boxes and of others by masks would be two kinds of label."""
    kit.xml_file("a").unlink()
    kind = "Main" if name == "voc2012" else "Segmentation"
    expected = f"{kit.xml_file('a')}: is missing, and ImageSets/{kind}/train.txt names a"
    assert refusal(kit, name) == expected


# Images


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_photographs_without_three_colours_are_read(kit: Devkit, mode: str) -> None:
    with Image.open(kit.image_file("a")) as image:
        image.convert(mode).save(kit.image_file("a"), format="JPEG")
    data = load(kit)
    assert data.image_shape == (3, 8, 8)
    red, green, blue = data.train.images[0]
    assert (torch.equal(red, green) and torch.equal(red, blue)) == (mode == "L")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_photograph_that_breaks_off_is_named(kit: Devkit, share: float) -> None:
    kit.image("c", np.random.RandomState(0).randint(0, 256, (90, 90, 3), dtype=np.uint8))
    whole = kit.image_file("c").read_bytes()
    kit.image_file("c").write_bytes(whole[: int(share * len(whole))])
    assert refusal(kit).startswith(f"{kit.image_file('c')}: does not decode as an image (")


def test_a_photograph_on_its_side_is_said(kit: Devkit) -> None:
    with Image.open(kit.image_file("c")) as image:
        exif = image.getexif()
        exif[0x0112] = 8
        image.save(kit.image_file("c"), exif=exif)
    assert "1 of 5 images are turned upright, as their EXIF orientation says" in load(kit).notes


# Annotations


@pytest.mark.parametrize(
    "box",
    [
        "",
        "<bndbox/>",
        "<bndbox><xmin>-7</xmin><ymin>900</ymin><xmax>-9</xmax><ymax>nan</ymax></bndbox>",
    ],
)
def test_boxes_need_not_be_in_the_image(kit: Devkit, box: str) -> None:
    """What an image is of is all that is read."""
    before = load(kit)
    kit.xml("a", f"<object><name>\n person </name>{box}</object>")
    assert same(load(kit), before)


@pytest.mark.parametrize(
    ("difficult", "label"), [((1, 0), 1), ((0, 1), 1), ((1, 1), IGNORED), ((0, 0), 1)]
)
def test_two_objects_of_a_class_are_one_label(kit: Devkit, difficult, label: int) -> None:
    things = [f"<object><name>dog</name><difficult>{one}</difficult></object>" for one in difficult]
    kit.xml("a", "<object><name>person</name></object>", *things)
    assert load(kit).train.labels[0, DOG] == label


@pytest.mark.parametrize(
    "content",
    ["<name/>", "<name>Dog</name>", "<name>dog</name><name>cat</name>", "<name>bike</name>"],
)
def test_other_names_are_refused(kit: Devkit, content: str) -> None:
    kit.xml("a", f"<object>{content}</object>")
    assert refusal(kit).startswith(f"{kit.xml_file('a')}: ")


def test_an_annotation_may_begin_with_a_mark_of_its_encoding(kit: Devkit) -> None:
    before = load(kit)
    kit.xml_file("a").write_bytes(b"\xef\xbb\xbf" + kit.xml_file("a").read_bytes())
    assert same(load(kit), before)


# Masks


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of few bits, which Pillow does not write."""
    height, width = values.shape
    whole = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -bits:]
    lines = np.packbits(whole.reshape(height, -1), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    parts = [chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_are_refused(kit: Devkit, bits: int) -> None:
    """A person would become void: Pillow spreads 15 of 4 bits to 255 of 8."""
    kit.mask_file("a").write_bytes(grey_png(regions(0, 3), bits))
    expected = f"{kit.mask_file('a')}: expected a grey mask of 8 bits, it has {bits}"
    assert refusal(kit) == expected
    kit.mask_file("a").write_bytes(grey_png(regions(0, 15, VOID), 8))
    assert len(load(kit).train) == 3


def test_a_palette_of_few_bits_is_read(kit: Devkit) -> None:
    kit.mask("a", regions(0, 15))
    before = load(kit)
    with Image.open(kit.mask_file("a")) as image:
        image.save(kit.mask_file("a"), bits=4)
    assert kit.mask_file("a").read_bytes()[24] == 4
    assert same(load(kit), before)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP"])
def test_masks_are_pngs_whatever_they_are_called(kit: Devkit, kind: str) -> None:
    """A JPEG's values are near those that were drawn, which is another class."""
    Image.fromarray(regions(0, 15).astype(np.uint8)).save(kit.mask_file("a"), format=kind)
    expected = f"{kit.mask_file('a')}: expected a mask as a PNG, it is a {kind}"
    assert refusal(kit) == expected


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA", "I;16"])
def test_values_of_another_mode_are_refused(kit: Devkit, mode: str) -> None:
    grey = Image.fromarray(regions(0, 15).astype(np.uint8))
    other = Image.fromarray(regions(0, 15).astype(np.uint16)) if "I" in mode else grey.convert(mode)
    other.save(kit.mask_file("a"))
    assert refusal(kit).endswith(f"(a palette, or grey), it is {mode}")


def test_an_empty_file_is_no_mask(kit: Devkit) -> None:
    kit.mask_file("a").write_bytes(b"")
    assert refusal(kit) == f"{kit.mask_file('a')}: the mask does not decode: it is no image"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (regions(0, 15), [PERSON]),
        (regions(VOID), []),
        (regions(0), []),
        (regions(0, VOID), []),
    ],
)
def test_a_mask_may_show_less_than_the_image_is_of(
    kit: Devkit, values: np.ndarray, shown: list[int]
) -> None:
    """Then the class can be compared with the teacher's map, and not be located."""
    kit.mask("a", values)
    data = load(kit)
    assert not [note for note in data.notes if "annotation has not" in note]
    masks = data.train.masks
    assert masks is not None
    assert pairs_of(masks.values)[1].tolist() == shown
    pairs = pairs_for(data.train.labels[:1] == 1, masks.values)
    assert pairs.classes.tolist() == [PERSON]
    assert pairs.compared.tolist() == [True]
    assert pairs.located.tolist() == [bool(shown)]


def test_a_mask_of_another_image_is_said(kit: Devkit) -> None:
    kit.mask("a", regions(0, 15, 12))
    (note,) = [note for note in load(kit).notes if "annotation has not" in note]
    assert note == (
        "warning: 1 mask of a class that the image's annotation has not "
        f"(first: {kit.mask_file('a')})"
    )


@pytest.mark.parametrize("difficult", [0, 1])
def test_a_difficult_object_may_be_in_its_mask(kit: Devkit, difficult: int) -> None:
    dog = f"<object><name>dog</name><difficult>{difficult}</difficult></object>"
    kit.xml("a", "<object><name>person</name></object>", dog)
    kit.mask("a", regions(0, 15, 12))
    assert not [note for note in load(kit).notes if "annotation has not" in note]


def test_void_is_no_class_however_much_of_it(kit: Devkit) -> None:
    values = np.full(tuple(reversed(SIZE)), VOID)
    values[0, 0] = 15
    kit.mask("a", values)
    masks = load(kit, size=8).train.masks
    assert masks is not None
    assert set(masks.values.unique().tolist()) <= {15, VOID}
