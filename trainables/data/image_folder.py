"""Image files, one folder per class: ``train/CLASS/*.png`` and ``test/CLASS`` or ``val/CLASS``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainables.data.cache import content_of
from trainables.data.dataset import Content, Dataset
from trainables.data.decode import Allocate, EncodedSplit, decode_resized
from trainables.errors import UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_image_folder(name: str, folder: Path, image_size: int | None) -> Dataset:
    """The data set of a folder with ``train/CLASS/...`` and ``test/CLASS/...`` (or ``val``).

    Classes are the sorted folder names. Images become RGB of ``image_size`` squared; without it
    they keep their size where all share one and become 224x224 otherwise.

    Raises:
        UserError: a folder is missing or empty, the two sets have different classes, or an
            image does not decode.
    """
    train = _split_folder(folder, "train")
    test = _split_folder(folder, "test", "val")
    classes = _classes(train)
    if different := set(classes) ^ set(_classes(test)):
        raise UserError(
            f"{train} and {test} must have the same class folders; "
            f"only one has {', '.join(sorted(different))}"
        )
    train_files, test_files = _files(train, classes), _files(test, classes)

    def decode(allocate: Allocate) -> Content:
        splits = [_split(f"{name} train", train_files), _split(f"{name} test", test_files)]
        return Content.measure(classes, *decode_resized(splits, image_size, allocate))

    files = [file for group in (*train_files, *test_files) for file in group]
    content = content_of(name, files, image_size, decode)
    height = content.train.images.shape[2]
    return content.dataset(name, crop_padding=height // 8, flip=True)


def _split_folder(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise UserError(f"{folder}: expected a folder {' or '.join(names)} with one folder per class")


def _classes(split: Path) -> tuple[str, ...]:
    classes = sorted(child.name for child in split.iterdir() if child.is_dir())
    if not classes:
        raise UserError(f"{split}: expected one folder per class, found none")
    return tuple(classes)


def _files(split: Path, classes: tuple[str, ...]) -> list[list[Path]]:
    """The image files of each class, sorted by path."""
    groups = []
    for label in classes:
        found = (split / label).rglob("*")
        groups.append(sorted(file for file in found if file.suffix.lower() in SUFFIXES))
        if not groups[-1]:
            raise UserError(f"{split / label}: expected images ({', '.join(SUFFIXES)}), found none")
    return groups


def _split(name: str, groups: list[list[Path]]) -> EncodedSplit:
    files = [file for group in groups for file in group]
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])

    def images() -> Iterator[tuple[str, bytes]]:
        for file in files:
            try:
                data = file.read_bytes()
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror})") from error
            yield str(file), data

    return EncodedSplit(name, labels, images)
