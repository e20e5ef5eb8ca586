"""A VOCdevkit of a few small images, as it would be unpacked from VOC's archive."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import sources
from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.errors import UserError

SIZE = (12, 8)
"""Width and height of its images."""


def thing(name: str, difficult: int | str | None = 0, inner: str = "") -> str:
    """An ``object`` of an annotation; None leaves the tag out."""
    tag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    return f"<object><name>{name}</name>{tag}{box}{inner}</object>"


class Devkit:
    """Writes below ``folder/place``.

    Attributes:
        folder: what a user would name by ``--data``.
        root: where ``JPEGImages`` is.
    """

    def __init__(self, folder: Path, place: str = "VOCdevkit/VOC2012") -> None:
        self.folder, self.root = folder, folder / place
        for name in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
            (self.root / name).mkdir(parents=True)

    def image_file(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def xml_file(self, name: str) -> Path:
        return self.root / "Annotations" / f"{name}.xml"

    def mask_file(self, name: str) -> Path:
        return self.root / "SegmentationClass" / f"{name}.png"

    def list_file(self, name: str) -> Path:
        """Of ``Main/train``, say."""
        return self.root / "ImageSets" / f"{name}.txt"

    def image(self, name: str, pixels: np.ndarray | None = None) -> None:
        """One of its own pixels for every name, unless some are given: uint8 ``[H, W, 3]``."""
        if pixels is None:
            draw = np.random.RandomState(sum(name.encode()))
            pixels = draw.randint(0, 256, (*reversed(SIZE), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.image_file(name), quality=95)

    def xml(self, name: str, *things: str) -> None:
        head = f"<filename>{name}.jpg</filename><size><width>12</width><height>8</height></size>"
        text = f"<annotation>\n{head}\n{''.join(things)}\n</annotation>"
        self.xml_file(name).write_text(text)

    def mask(self, name: str, values: np.ndarray) -> None:
        """A PNG with a palette, as VOC's are: the numbers are places in it, not grey."""
        self.mask_file(name).parent.mkdir(exist_ok=True)
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette([(37 * place) % 256 for place in range(768)])
        image.save(self.mask_file(name))

    def lists(self, kind: str, train: str, val: str) -> None:
        """Names are given with blanks between."""
        for split, names in (("train", train), ("val", val)):
            self.list_file(f"{kind}/{split}").write_text("".join(f"{n}\n" for n in names.split()))


def regions(*classes: int) -> np.ndarray:
    """Columns of each class number, as wide as each other, on ``[8, 12]``: background, ..."""
    width, height = SIZE
    return np.tile(np.repeat(classes, width // len(classes)), (height, 1))


def small(folder: Path, place: str = "VOCdevkit/VOC2012") -> Devkit:
    """Three training images, ``a`` with a mask, and two test images, ``d`` with one."""
    kit = Devkit(folder, place)
    for name in "abcde":
        kit.image(name)
    kit.xml("a", thing("person", inner="<part><name>head</name><bndbox/></part>"))
    kit.xml("b", thing("cat"), thing("dog", difficult=1))
    kit.xml("c", thing("dog", difficult=1), thing("dog"), thing("dog", difficult=1))
    kit.xml("d", thing("dog", difficult=None))
    kit.xml("e", thing("chair", difficult=1))
    kit.mask("a", regions(0, 15, 255))
    kit.mask("d", regions(12, 255, 0))
    kit.lists("Main", "a b c", "d e")
    kit.lists("Segmentation", "a", "d")
    return kit


def load(kit: Devkit, name: str = "voc2012", size: int = 8) -> Dataset:
    """As a new process would: nothing is remembered."""
    sources._load.cache_clear()
    return load_dataset(name, kit.folder, image_size=size)


def refusal(kit: Devkit, name: str = "voc2012") -> str:
    """The line by which its data set is refused."""
    with pytest.raises(UserError) as caught:
        load(kit, name)
    message = str(caught.value)
    assert "\n" not in message
    return message
