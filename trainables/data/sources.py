"""Every data set by its name. What reads one, torch with it, is loaded when it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainables.errors import UserError, unknown
from trainables.registry import Registry
from trainables.worker import kept

if TYPE_CHECKING:
    from trainables.data.dataset import Dataset


class Asked(NamedTuple):
    """A data set that somebody wants.

    Attributes:
        name: as the user wrote it.
        folder: its PATH, or the folder of all data; None for a source that needs neither.
        image_size: side in pixels of the square that images become; None: as `load_dataset`.
        download: whether what is missing may be fetched.
    """

    name: str
    folder: Path | None
    image_size: int | None
    download: bool


@dataclass(frozen=True)
class Source:
    """Where data sets come from, and one line of ``kdsweep datasets``.

    Attributes:
        name: what the user writes; ``PATH`` stands for a folder.
        description: images, classes, sizes.
        expects: what must lie under ``--data`` or ``PATH``.
        load: reads it.
        needs_data: whether it lies under ``--data``.
        resizable: whether the user says how large its images shall be, as for any ``PATH``.
    """

    name: str
    description: str
    expects: str
    load: Callable[[Asked], Dataset]
    needs_data: bool = False
    resizable: bool = False

    @property
    def takes_path(self) -> bool:
        """Whether the user names a folder, and how large its images shall be."""
        return self.name.endswith(":PATH")


# What reads a data set, torch with it, is loaded when it is read.


def _digits(asked: Asked) -> Dataset:
    from trainables.data.digits import load_digits

    return load_digits()


def _cifar(asked: Asked) -> Dataset:
    from trainables.data.cifar import CIFAR10, CIFAR100, load_cifar

    assert asked.folder is not None
    kind = CIFAR10 if asked.name == "cifar10" else CIFAR100
    return load_cifar(kind, asked.folder, download=asked.download)


def _image_folder(asked: Asked) -> Dataset:
    from trainables.data.image_folder import load_image_folder

    assert asked.folder is not None
    return load_image_folder(asked.name, asked.folder, asked.image_size)


def _parquet(asked: Asked) -> Dataset:
    from trainables.data.parquet import load_parquet

    assert asked.folder is not None
    return load_parquet(asked.name, asked.folder, asked.image_size)


def _voc(asked: Asked) -> Dataset:
    from trainables.data.voc import load_voc2012

    assert asked.folder is not None
    return load_voc2012(asked.name, asked.folder, asked.image_size)


_OWN = (
    Source(
        "digits",
        "handwritten digits: 1,438 training and 359 test images, 1x8x8, 10 classes",
        "nothing: comes with scikit-learn",
        _digits,
    ),
    Source(
        "cifar10",
        "CIFAR-10: 50,000 training and 10,000 test images, 3x32x32, 10 classes",
        "cifar10/**/train*.parquet and test*.parquet, or cifar-10-batches-py/",
        _cifar,
        needs_data=True,
    ),
    Source(
        "cifar100",
        "CIFAR-100: 50,000 training and 10,000 test images, 3x32x32, 100 classes",
        "cifar100/**/train*.parquet and test*.parquet, or cifar-100-python/",
        _cifar,
        needs_data=True,
    ),
    Source(
        "voc2012",
        "PASCAL VOC 2012: 5,717 training and 5,823 test images (its val), multi-label, 20 classes, "
        "3x227x227 or image_size squared; masks of 2,913",
        "VOCdevkit/VOC2012/ with JPEGImages, Annotations, ImageSets/Main and, for masks, "
        "SegmentationClass; without Annotations: as voc2012_segmentation",
        _voc,
        needs_data=True,
        resizable=True,
    ),
    Source(
        "voc2012_segmentation",
        "the images of PASCAL VOC 2012 that have masks: 1,464 for training and 1,449 for testing",
        "VOCdevkit/VOC2012/ with JPEGImages, ImageSets/Segmentation and SegmentationClass; labels "
        "from Annotations, else from the masks",
        _voc,
        needs_data=True,
        resizable=True,
    ),
    Source(
        "imagefolder:PATH",
        "image files in one folder per class, as RGB of image_size squared",
        "PATH/train/CLASS/*.png (or .jpg, .gif, ...) and PATH/test/CLASS (or val, valid, "
        "validation)",
        _image_folder,
    ),
    Source(
        "parquet:PATH",
        "Parquet files as on the Hugging Face hub, as RGB of image_size squared",
        "PATH/train*.parquet and PATH/test*.parquet (or validation*), or folders train and test; "
        "columns image (or img) and label (number or name)",
        _parquet,
    ),
)
SOURCES: Registry[Source] = Registry(
    "dataset",
    "kdsweep.datasets",
    {source.name.removesuffix(":PATH"): source for source in _OWN},
)
"""Every data set by what stands before its path: ours, and those of other packages."""


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    image_size: int | None = None,
    download: bool = False,
) -> Dataset:
    """Load a data set into memory. A process loads each one once; later calls return the same.

    Args:
        name: one of `SOURCES`. A relative PATH is looked for under ``data_dir`` first,
            then under the working directory.
        data_dir: where the data lie; by default the environment variable ``KDSWEEP_DATA``.
        image_size: side in pixels of the square all images of ``imagefolder`` and ``parquet``
            become. None keeps their size where all share one, and is 224 otherwise; of VOC 227.
        download: fetch CIFAR with torchvision where it is absent.

    Raises:
        UserError: unknown name, data missing or damaged; the message names the file or the key.
    """
    where = data_dir or os.environ.get("KDSWEEP_DATA")
    root = Path(where).expanduser().absolute() if where else None
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size: expected a positive number of pixels, not {image_size}")
    kind, colon, path = name.partition(":")
    source = SOURCES.get(kind)
    if source is None or (colon and not source.takes_path):
        raise unknown("dataset", name, [known.name for known in SOURCES.values()])
    folder = root if source.needs_data else None
    if source.takes_path:
        if not path:
            raise UserError(f"dataset '{name}': expected {kind}:PATH with the path of a folder")
        folder = _find_folder(name, path, root)
    elif image_size is not None and not source.resizable:
        raise UserError(f"image_size: {name} has images of a fixed size; leave it out")
    if source.needs_data and folder is None:
        raise UserError(
            f"--data DIR (or KDSWEEP_DATA): needed to find {name}; expected {source.expects}"
        )
    return _load(kind, Asked(name, folder, image_size, download))


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
@kept("data sets", entries=4)
def _load(kind: str, asked: Asked) -> Dataset:
    return SOURCES[kind].load(asked)
