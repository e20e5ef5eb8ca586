"""PASCAL VOC 2012: photographs of several of 20 classes at once, with masks of some.

Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015. The
folder is the one that torchvision's ``VOCDetection`` and ``VOCSegmentation`` leave behind; the
training set is VOC's ``train``, the test set its ``val``, because labels of its test set were never
published.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from torchvision.datasets import VOCDetection

from trainables.data.cache import content_of
from trainables.data.dataset import MULTI_LABEL, Content, Dataset, Images, Masks
from trainables.data.decode import Allocate, EncodedSplit, decode_resized
from trainables.data.labels import IGNORED
from trainables.data.notes import listed, plural
from trainables.data.voc_masks import contradicting, read_mask, read_masks
from trainables.errors import UserError, unknown

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

IMAGE_SIZE = 227
"""Side in pixels, as in Park et al., NeurIPS 2020."""

RESIZED_CROPS = 64

SEGMENTATION = "voc2012_segmentation"
"""The data set of those images alone that have masks."""

_PLACES = ("VOCdevkit/VOC2012", "TrainVal/VOCdevkit/VOC2012", "VOC2012", "")
_SPLITS = ("train", "val")


class Sample(NamedTuple):
    """The files of one image.

    Attributes:
        name: as VOC's lists have it: ``2007_000332``.
        image: the photograph.
        annotation: its XML; None where labels are those of the mask.
        mask: of its pixels' classes; None where it has none.
    """

    name: str
    image: Path
    annotation: Path | None
    mask: Path | None


def load_voc2012(name: str, folder: Path, image_size: int | None) -> Dataset:
    """Training and test set, multi-label, every image squeezed to one square.

    An image says yes to a class of which it has an object; where all of those are marked as
    difficult it counts neither way. Labels from masks know of no difficult objects. Masks are
    resized by the nearest pixel.

    Args:
        name: ``voc2012``: the lists of ``ImageSets/Main``, with masks of those images that have
            one; without annotations, as the other. ``voc2012_segmentation``: the lists of
            ``ImageSets/Segmentation``.
        folder: where ``VOCdevkit`` is.
        image_size: side of the square; None: `IMAGE_SIZE`.

    Raises:
        UserError: a file is missing, damaged, or says something that VOC does not have.
    """
    root = _root(folder)
    annotated = (root / "Annotations").is_dir()
    main = name != SEGMENTATION and annotated
    lists = root / "ImageSets" / ("Main" if main else "Segmentation")
    splits = [_samples(root, lists / f"{split}.txt", annotated, main) for split in _SPLITS]
    notes = _notes(name, root, annotated, main, splits)
    side = image_size or IMAGE_SIZE

    def decode(allocate: Allocate) -> Content:
        encoded = [
            _encoded(f"{name} {split}", samples)
            for split, samples in zip(_SPLITS, splits, strict=True)
        ]
        images, remarks, sizes = decode_resized(encoded, side, allocate, squash=True)
        train, test = (
            replace(part, masks=_masks(samples, side))
            for part, samples in zip(images, splits, strict=True)
        )
        remarks += _contradictions(zip((train, test), splits, strict=True))
        return Content.measure(CLASSES, train, test, remarks, sizes, MULTI_LABEL)

    files = [file for part in splits for sample in part for file in sample[1:] if file]
    numbers = [len(part) for part in splits]
    masks = sum(sample.mask is not None for part in splits for sample in part)
    content = content_of(name, files, side, decode, reading=[numbers, main, annotated], masks=masks)
    return content.dataset(
        name,
        crop_padding=0,
        flip=True,
        resized_crops=RESIZED_CROPS,
        notes=notes,
        sources=(f"{lists.name}/train.txt", f"{lists.name}/val.txt"),
        squeezed=True,
    )


def _root(folder: Path) -> Path:
    for place in _PLACES:
        if (folder / place / "JPEGImages").is_dir():
            return folder / place
    raise UserError(
        f"{folder}: there is no VOCdevkit/VOC2012 with JPEGImages; name the folder that "
        "VOCdevkit is in by --data"
    )


def _samples(root: Path, file: Path, annotated: bool, main: bool) -> list[Sample]:
    """What a list of VOC names.

    Raises:
        UserError: the list is missing or empty, or an image, its XML or, in the lists of
            segmentation, its mask.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "" if annotated else "; without Annotations it is this list that counts"
        expected = "expected a name of an image a line"
        raise UserError(f"{file}: cannot be read: {expected}{why}") from error
    names = [name for line in lines if (name := line.strip())]
    if several := [name for name in names if name.split() != [name]]:
        raise UserError(f"{file}: expected a name of an image a line, found '{several[0]}'")
    if not names:
        raise UserError(f"{file}: expected names of images, found none")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{file}: names {listed(twice)} more than once")
    found = []
    for name in names:
        mask = _file(root / "SegmentationClass", name, ".png")
        sample = Sample(
            name,
            _file(root / "JPEGImages", name, ".jpg", ".jpeg"),
            _file(root / "Annotations", name, ".xml") if annotated else None,
            mask if not main or mask.is_file() else None,
        )
        for needed in sample[1:]:
            if needed is not None and not Path(needed).is_file():
                where = "/".join(file.parts[-3:])
                raise UserError(f"{needed}: is missing, and {where} names {name}")
        found.append(sample)
    return found


def _file(folder: Path, name: str, *endings: str) -> Path:
    """The file of a name, its ending in small letters or capitals; where there is none, as VOC
    would call it."""
    as_voc = folder / f"{name}{endings[0]}"
    if as_voc.is_file():
        return as_voc
    others = [folder / f"{name}{end}" for one in endings for end in (one, one.upper())]
    return next((file for file in others if file.is_file()), as_voc)


def _notes(
    name: str, root: Path, annotated: bool, main: bool, splits: Sequence[Sequence[Sample]]
) -> tuple[str, ...]:
    """What was chosen, in words."""
    masks = [sum(sample.mask is not None for sample in part) for part in splits]
    where = "boxes of Annotations" if annotated else "masks, which know no difficult objects"
    notes = [f"labels are those of the {where}"]
    if name != SEGMENTATION and not main:
        notes.append(
            "there are no Annotations: the images are those of ImageSets/Segmentation, as in "
            f"{SEGMENTATION}"
        )
    if main and not sum(masks):
        notes.append(f"no image of {root.name} has a mask: nothing can be localised")
    elif main:
        notes.append(f"{masks[0]:,} training and {masks[1]:,} test images have masks")
    return tuple(notes)


def _encoded(name: str, samples: Sequence[Sample]) -> EncodedSplit:
    labels = np.stack([labels_of(sample) for sample in samples])

    def images() -> Iterator[tuple[str, bytes]]:
        for sample in samples:
            try:
                yield str(sample.image), sample.image.read_bytes()
            except OSError as error:
                raise UserError(f"{sample.image}: cannot be read ({error.strerror})") from error

    return EncodedSplit(name, labels, images)


def labels_of(sample: Sample) -> np.ndarray:
    """Which classes an image says yes to: uint8 ``[20]`` of 0, 1 and `IGNORED`.

    Raises:
        UserError: it says yes to none, or its files are damaged or name a class that is none.
    """
    if sample.annotation is not None:
        labels, source = _labels_of_xml(sample.annotation), sample.annotation
    else:
        assert sample.mask is not None
        values, source = read_mask(sample.mask, len(CLASSES)), sample.mask
        labels = np.isin(np.arange(1, len(CLASSES) + 1), values).astype(np.uint8)
    if not labels.any():
        raise UserError(f"{source}: the image is of no class; expected one object at least")
    return labels


def _labels_of_xml(file: Path) -> np.ndarray:
    """Of the objects alone: their parts, such as a head, are no objects."""
    try:
        parsed = VOCDetection.parse_voc_xml(ElementTree.parse(file).getroot())
        objects = parsed["annotation"]["object"]
        found = [(str(one["name"]), str(one.get("difficult", "0"))) for one in objects]
    except (OSError, ElementTree.ParseError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: is no annotation of VOC: {type(error).__name__}: {error}"
        ) from error
    labels = np.zeros(len(CLASSES), dtype=np.uint8)
    # Those that are easy to make out come last, and count.
    for name, difficult in sorted(found, key=lambda one: one[1], reverse=True):
        if name not in CLASSES:
            raise UserError(f"{file}: {unknown('class', name, CLASSES)}")
        if difficult not in ("0", "1"):
            raise UserError(f"{file}: difficult of a {name}: expected 0 or 1, not '{difficult}'")
        labels[CLASSES.index(name)] = IGNORED if difficult == "1" else 1
    return labels


def _masks(samples: Sequence[Sample], side: int) -> Masks | None:
    files, images = [sample.mask for sample in samples], [sample.image for sample in samples]
    return read_masks(files, images, side, len(CLASSES))


def _contradictions(parts: Iterable[tuple[Images, Sequence[Sample]]]) -> tuple[str, ...]:
    """Says where a mask and an annotation may be of two images."""
    odd = [samples[place].mask for part, samples in parts for place in contradicting(part)]
    if not odd:
        return ()
    return (
        f"warning: {plural(len(odd), 'mask')} of a class that the image's annotation has not "
        f"(first: {odd[0]})",
    )
