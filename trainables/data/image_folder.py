"""Image files, one folder per class: ``train/CLASS/...`` and ``test/CLASS/...`` (or ``val``)."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainables.data.cache import content_of
from trainables.data.dataset import Content, Dataset
from trainables.data.decode import Allocate, EncodedSplit, decode_resized
from trainables.data.notes import listed, shortened
from trainables.data.roles import (
    EXPECTED,
    TEST,
    TRAIN,
    VALIDATION,
    choose_test,
    role_of,
    same_name,
    the_one,
)
from trainables.data.walk import LeftOut, count_hidden, identity, image_files, scan
from trainables.errors import UserError


def load_image_folder(name: str, folder: Path, image_size: int | None) -> Dataset:
    """The data set of a folder with ``train/CLASS/...`` and ``test/CLASS/...``.

    ``val``, ``valid`` or ``validation`` serve where there is no ``test``, or none with classes.
    Classes are the sorted folder names. Images become RGB of ``image_size`` squared; without it
    they keep their size where all share one and become 224x224 otherwise. What was guessed or
    left out is in the `Dataset.notes`.

    Raises:
        UserError: a folder is missing, empty or unclear, the two sets have different classes, or
            an image does not decode.
    """
    train, test, notes = _choose(folder)
    train_classes, test_classes = _classes(train), _classes(test)
    classes = tuple(train_classes)
    _check_same(folder, train, test, train_classes, test_classes)
    left_out = LeftOut()
    train_files = _files(train, train_classes, left_out)
    in_order = {same_name(found): path for found, path in test_classes.items()}
    test_files = _files(test, {c: in_order[same_name(c)] for c in classes}, left_out)
    notes += tuple(left_out.notes(folder))

    def decode(allocate: Allocate) -> Content:
        splits = [_split(f"{name} train", train_files), _split(f"{name} test", test_files)]
        images, remarks, sizes = decode_resized(splits, image_size, allocate)
        return Content.measure(classes, *images, remarks, sizes)

    files = [file for group in (*train_files, *test_files) for file in group]
    numbers = [[len(group) for group in groups] for groups in (train_files, test_files)]
    content = content_of(name, files, image_size, decode, reading=[classes, numbers])
    height = content.train.images.shape[2]
    return content.dataset(
        name,
        crop_padding=height // 8,
        flip=True,
        notes=notes,
        sources=(f"{train.name}/", f"{test.name}/"),
    )


def _choose(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """The folders of the training and the test set, and what is to be said about that."""
    inside = [entry.name for entry in scan(folder) if entry.is_dir()]
    parts: dict[str | None, list[str]] = defaultdict(list)
    for child in inside:
        parts[role_of(child)].append(child)
    tests, validations, others = parts[TEST], parts[VALIDATION], parts[None]
    if not parts[TRAIN] or not (tests or validations):
        missing = "train" if not parts[TRAIN] else "test or val"
        nearer = [child for child in others if (folder / child / "train").is_dir()]
        hint = f"; {nearer[0]} has one: name that folder" if nearer else ""
        raise UserError(
            f"{folder}: expected folders {EXPECTED} with one folder per class; there is no folder "
            f"{missing}, found {listed(inside) or 'no folders'}{hint}"
        )
    train = folder / the_one(folder, TRAIN, parts[TRAIN])
    unlabelled = None
    if tests:
        candidate = folder / the_one(folder, TEST, tests)
        unlabelled = _unlabelled(candidate, _classes(train))
    test, notes = choose_test(folder, tests, validations, unlabelled)
    shown = [child for child in others if not child.startswith(".")]
    if shown:
        notes += (f"not read, beside {train.name} and {test}: {listed(shown)}",)
    return train, folder / test, notes


def _unlabelled(test: Path, classes: dict[str, str]) -> str | None:
    """Why a test set has no classes; None where it has."""
    inside = list(_class_folders(test))
    if not inside:
        return f"{test.name} has no class folders"
    if len(inside) == 1 and same_name(inside[0].name) not in map(same_name, classes):
        return f"{test.name} has one folder, {shortened(inside[0].name)}, which is no class"
    return None


def _class_folders(split: Path) -> Iterator[os.DirEntry[str]]:
    return (e for e in scan(split) if e.is_dir() and not e.name.startswith("."))


def _classes(split: Path) -> dict[str, str]:
    """The folders of the classes by name, sorted.

    Raises:
        UserError: there are none, or two are the same.
    """
    classes = {entry.name: entry.path for entry in _class_folders(split)}
    if not classes:
        raise UserError(f"{split}: expected one folder per class, found none")
    known: dict[object, str] = {}
    for name, path in classes.items():
        for key, what in ((same_name(name), "one name"), (identity(path), "one folder")):
            if (other := known.setdefault(key, name)) != name:
                raise UserError(
                    f"{split}: the class folders {other!r} and {name!r} are {what}, "
                    "written in two ways; keep one"
                )
    return classes


def _check_same(
    folder: Path, train: Path, test: Path, ours: dict[str, str], theirs: dict[str, str]
) -> None:
    own, other = ({same_name(name) for name in classes} for classes in (ours, theirs))
    parts = [
        f"only {split.name} has {listed(sorted(names))}"
        for split, names in ((train, own - other), (test, other - own))
        if names
    ]
    if parts:
        raise UserError(
            f"{folder}: {train.name} and {test.name} must have the same class folders; "
            f"{'; '.join(parts)}"
        )


def _files(split: Path, classes: dict[str, str], left_out: LeftOut) -> list[list[str]]:
    """The image files of each class; whatever else lies in ``split`` is counted."""
    for entry in scan(split):
        if not entry.is_dir():
            left_out.add_outside(entry.path)
        elif entry.name.startswith("."):
            count_hidden(entry.path, left_out)
    groups = []
    for path in classes.values():
        here = LeftOut()
        groups.append(image_files(path, here))
        if not groups[-1]:
            others = "; ".join(here.notes(Path(path)))
            raise UserError(
                f"{path}: expected images (.png, .jpg, ...), found none"
                + (f"; {others}" if others else "")
            )
        left_out.merge(here)
    return groups


def _split(name: str, groups: list[list[str]]) -> EncodedSplit:
    files = [file for group in groups for file in group]
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])

    def images() -> Iterator[tuple[str, bytes]]:
        for file in files:
            try:
                with open(file, "rb", buffering=0) as opened:
                    data = opened.read()
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror})") from error
            yield file, data

    return EncodedSplit(name, labels, images)
