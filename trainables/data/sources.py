"""Every data set by its name. What reads one, torch with it, is loaded when it is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.errors import UserError, unknown

if TYPE_CHECKING:
    from trainables.data.dataset import Dataset


@dataclass(frozen=True)
class DatasetDescription:
    """One line of ``kdsweep datasets``.

    Attributes:
        name: what the user writes; ``PATH`` stands for a folder.
        description: images, classes, sizes.
        expects: what must lie under ``--data`` or ``PATH``.
    """

    name: str
    description: str
    expects: str


_FIXED = {
    "digits": DatasetDescription(
        "digits",
        "handwritten digits: 1,438 training and 359 test images, 1x8x8, 10 classes",
        "nothing: comes with scikit-learn",
    ),
    "cifar10": DatasetDescription(
        "cifar10",
        "CIFAR-10: 50,000 training and 10,000 test images, 3x32x32, 10 classes",
        "cifar10/**/train*.parquet and test*.parquet, or cifar-10-batches-py/",
    ),
    "cifar100": DatasetDescription(
        "cifar100",
        "CIFAR-100: 50,000 training and 10,000 test images, 3x32x32, 100 classes",
        "cifar100/**/train*.parquet and test*.parquet, or cifar-100-python/",
    ),
}
_FOLDERS = {
    "imagefolder": DatasetDescription(
        "imagefolder:PATH",
        "image files in one folder per class, as RGB of image_size squared",
        "PATH/train/CLASS/*.png (or .jpg, .gif, ...) and PATH/test/CLASS (or val, valid, "
        "validation)",
    ),
    "parquet": DatasetDescription(
        "parquet:PATH",
        "Parquet files as on the Hugging Face hub, as RGB of image_size squared",
        "PATH/train*.parquet and PATH/test*.parquet (or validation*), or folders train and test; "
        "columns image (or img) and label (number or name)",
    ),
}


def describe_datasets() -> list[DatasetDescription]:
    """Every data set there is, in the order to show them."""
    return [*_FIXED.values(), *_FOLDERS.values()]


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    image_size: int | None = None,
    download: bool = False,
) -> Dataset:
    """Load a data set into memory. A process loads each one once; later calls return the same.

    Args:
        name: one of `describe_datasets`. A relative PATH is looked for under ``data_dir`` first,
            then under the working directory.
        data_dir: where the data lie; by default the environment variable ``KDSWEEP_DATA``.
        image_size: side in pixels of the square all images of ``imagefolder`` and ``parquet``
            become. None keeps their size where all share one, and is 224 otherwise.
        download: fetch CIFAR with torchvision where it is absent.

    Raises:
        UserError: unknown name, data missing or damaged; the message names the file or the key.
    """
    where = data_dir or os.environ.get("KDSWEEP_DATA")
    root = Path(where).expanduser().absolute() if where else None
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size: expected a positive number of pixels, not {image_size}")
    if name in _FIXED:
        return _load_fixed(name, root, image_size, download)
    kind, _, path = name.partition(":")
    if kind not in _FOLDERS:
        raise unknown("dataset", name, [known.name for known in describe_datasets()])
    if not path:
        raise UserError(f"dataset '{name}': expected {kind}:PATH with the path of a folder")
    return _load_folder(name, kind, _find_folder(name, path, root), image_size)


def _load_fixed(name: str, root: Path | None, image_size: int | None, download: bool) -> Dataset:
    if image_size is not None:
        raise UserError(f"image_size: {name} has images of a fixed size; leave it out")
    if name == "digits":
        return _digits()
    if root is None:
        raise UserError(
            f"--data DIR (or KDSWEEP_DATA): needed to find {name}; expected {_FIXED[name].expects}"
        )
    return _cifar(name, root, download)


def _find_folder(name: str, path: str, root: Path | None) -> Path:
    roots = [folder for folder in (root, Path.cwd()) if folder is not None]
    for folder in roots:
        # An absolute path replaces the root.
        if (found := folder / Path(path).expanduser()).is_dir():
            return found
    raise UserError(
        f"dataset '{name}': there is no folder {path} in {' or in '.join(map(str, roots))} "
        "(set --data DIR or KDSWEEP_DATA)"
    )


# Actors are reused from trial to trial, and a trial must not load what the last one had. Few are
# kept: a data set is hundreds of megabytes, and a process rarely serves more than one study.
_remember = lru_cache(maxsize=4)


@_remember
def _digits() -> Dataset:
    from trainables.data.digits import load_digits

    return load_digits()


@_remember
def _cifar(name: str, root: Path, download: bool) -> Dataset:
    from trainables.data.cifar import CIFAR10, CIFAR100, load_cifar

    return load_cifar(CIFAR10 if name == "cifar10" else CIFAR100, root, download=download)


@_remember
def _load_folder(name: str, kind: str, folder: Path, image_size: int | None) -> Dataset:
    from trainables.data.image_folder import load_image_folder
    from trainables.data.parquet import load_parquet

    load = load_image_folder if kind == "imagefolder" else load_parquet
    return load(name, folder, image_size)
