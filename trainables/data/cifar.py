"""CIFAR-10 and CIFAR-100, from Parquet files or torchvision's folders, in the official order.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from trainables.data.cache import content_of
from trainables.data.dataset import Content, Dataset, Images
from trainables.data.decode import Allocate, Shape, decode_split
from trainables.data.parquet import encoded, image_column
from trainables.data.parquet_files import Shards, find_shards, folder_with_shards
from trainables.data.parquet_labels import read_numbers
from trainables.errors import UserError

_IMAGE_SIZE = (32, 32)
_TRAIN_IMAGES = 50_000
_TEST_IMAGES = 10_000
_SHAPES: tuple[Shape, Shape] = (
    (_TRAIN_IMAGES, 3, *_IMAGE_SIZE),
    (_TEST_IMAGES, 3, *_IMAGE_SIZE),
)
_BLOCK = 10_000

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
# As in the original files; the hub's copy spells "crab" without its b.
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
woman worm
"""


@dataclass(frozen=True)
class Cifar:
    """What is known of a CIFAR data set before its files are read.

    Attributes:
        name: also the folder its Parquet files are looked for in.
        classes: in the order of the labels.
        torchvision_folder: where torchvision keeps its files.
        torchvision_class: the class in ``torchvision.datasets``.
        label_column: in the Parquet files.
        blocks: per split, the sha256 of every official block of 10,000 images: NHWC uint8
            pixels, then the labels as uint8. Where it is empty, only counts are checked.
    """

    name: str
    classes: tuple[str, ...]
    torchvision_folder: str
    torchvision_class: str
    label_column: str
    blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)


CIFAR10 = Cifar(
    name="cifar10",
    classes=tuple(_CIFAR10_CLASSES.split()),
    torchvision_folder="cifar-10-batches-py",
    torchvision_class="CIFAR10",
    label_column="label",
    blocks={
        "train": (
            "8350d89ba6404c270d263d84bf037e74b0158eecac79f27405efcf23445a6997",
            "28d2d506ff2e052a3c902ac74931514d4c22d54b3f23622088bee441ab096cf0",
            "e56532de152c7a77fc2a722499682f2699ce5177bbfac2ed2e415096184fa1d9",
            "bb996a8ffff861dd5cca88c397fdfb884f0c482c5588bd32cea3dc7b648709bb",
            "efb6334c7c1f88ac69032959408d9eeccb983002e83119b66de7309d3d2c7915",
        ),
        "test": ("8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",),
    },
)
CIFAR100 = Cifar(
    name="cifar100",
    classes=tuple(_CIFAR100_CLASSES.split()),
    torchvision_folder="cifar-100-python",
    torchvision_class="CIFAR100",
    label_column="fine_label",
)


def load_cifar(cifar: Cifar, data_dir: Path, *, download: bool) -> Dataset:
    """Read the data set from ``data_dir``.

    Looked for: Parquet files in (or below) a folder named ``cifar.name``, which may be
    ``data_dir`` itself or lie up to three levels below; then torchvision's folder in
    ``data_dir`` or in ``data_dir/<name>``; then, with ``download``, torchvision fetches it.

    Raises:
        UserError: nothing found; a file is missing or damaged (the message names it).
    """
    if folder := _parquet_folder(cifar, data_dir):
        return _load_parquet(cifar, folder)
    roots = (data_dir, data_dir / cifar.name)
    present = [root for root in roots if (root / cifar.torchvision_folder).is_dir()]
    if not present and download:
        _download(cifar, data_dir)
        present = [data_dir]
    if present:
        return _load_torchvision(cifar, present[0])
    raise UserError(
        f"--data DIR (or KDSWEEP_DATA): {cifar.name} is not in {data_dir}; expected Parquet files "
        f"{cifar.name}/**/train*.parquet and test*.parquet, or torchvision's folder "
        f"{cifar.torchvision_folder}"
    )


def _parquet_folder(cifar: Cifar, data_dir: Path) -> Path | None:
    names = (cifar.name, f"datasets--uoft-cs--{cifar.name}")
    named = [data_dir] if data_dir.name in names else []
    for depth in ("", "*/", "*/*/"):  # not all of it: other data sets beside it may be huge
        for name in names:
            named += sorted(data_dir.glob(depth + name))
    for folder in named:
        if found := folder_with_shards(folder):
            return found
    return None


def _load_parquet(cifar: Cifar, folder: Path) -> Dataset:
    train, test = find_shards(folder, "train"), find_shards(folder, "test")
    for shards, expected in ((train, _TRAIN_IMAGES), (test, _TEST_IMAGES)):
        if sum(shards.rows) != expected:
            files = zip(shards.files, shards.rows, strict=True)
            raise UserError(
                f"{folder}: expected {expected} {shards.split} images of {cifar.name}, found "
                f"{sum(shards.rows)} ({', '.join(f'{f.name}: {rows}' for f, rows in files)})"
            )

    def decode(allocate: Allocate) -> Content:
        train_pixels, test_pixels = allocate(_SHAPES)
        # The small set first: a damaged file is found sooner.
        test_images = _decode_shards(cifar, test, test_pixels)
        train_images = _decode_shards(cifar, train, train_pixels)
        return Content.measure(cifar.classes, train_images, test_images)

    return _dataset(cifar, content_of(cifar.name, [*train.files, *test.files], None, decode))


def _decode_shards(cifar: Cifar, shards: Shards, pixels: np.ndarray) -> Images:
    """Decoded into ``pixels``, which the result holds."""
    column = image_column(shards)
    shards.check_columns((column, cifar.label_column))
    labels = read_numbers(shards, cifar.label_column)
    _check_labels(cifar, labels, shards)
    split = encoded(shards, f"{cifar.name} {shards.split}", labels, column)
    decode_split(split, pixels, resize=False)
    images = Images(torch.from_numpy(pixels), torch.from_numpy(labels))
    official = cifar.blocks.get(shards.split)
    return _in_official_order(images, official, shards) if official else images


def _check_labels(cifar: Cifar, labels: np.ndarray, shards: Shards) -> None:
    """Every class has the same number of images, and there are no others."""
    classes = len(cifar.classes)
    for row in np.flatnonzero(labels >= classes).tolist():
        raise UserError(f"{shards.locate(row)}: label {labels[row]}, expected 0 to {classes - 1}")
    counts = np.bincount(labels, minlength=classes)
    expected = len(labels) // classes
    for label in np.flatnonzero(counts != expected).tolist():
        raise UserError(
            f"{', '.join(map(str, shards.files))}: {counts[label]} {shards.split} images have "
            f"label {label}, expected {expected}"
        )


def _in_official_order(images: Images, official: tuple[str, ...], shards: Shards) -> Images:
    """Check the blocks and bring them into the official order, in place.

    Some copies hold the blocks in the order of the original archive, which begins with the
    fourth, others in that of their names. Either way the same image gets the same index.

    Raises:
        UserError: a block is not an official one; the message names the files it came from.
    """
    found = [_block_digest(images, start) for start in range(0, len(images), _BLOCK)]
    missing = [block for block in official if block not in found]
    for number, block in enumerate(found):
        if block not in official or block in found[:number]:
            start = number * _BLOCK
            files = ", ".join(map(str, shards.holding(start, start + _BLOCK)))
            raise UserError(
                f"{files}: damaged: the {shards.split} images {start} to {start + _BLOCK - 1} have "
                f"sha256 {block[:12]}, expected {missing[0][:12]}"
            )
    order = [found.index(block) for block in official]
    if order == sorted(order):
        return images
    rows = torch.cat([torch.arange(block * _BLOCK, (block + 1) * _BLOCK) for block in order])
    return Images(images.images.copy_(images.images[rows]), images.labels[rows])


def _block_digest(images: Images, start: int) -> str:
    block = slice(start, start + _BLOCK)
    pixels = images.images[block].permute(0, 2, 3, 1).contiguous()
    digested = hashlib.sha256(pixels.numpy().data)
    digested.update(images.labels[block].to(torch.uint8).numpy().data)
    return digested.hexdigest()


def _load_torchvision(cifar: Cifar, root: Path) -> Dataset:
    from torchvision import datasets
    from torchvision.datasets.utils import calculate_md5

    source = getattr(datasets, cifar.torchvision_class)
    folder = root / cifar.torchvision_folder
    expected = [
        *source.train_list,
        *source.test_list,
        (source.meta["filename"], source.meta["md5"]),
    ]
    files = [folder / name for name, _ in expected]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: missing; expected the files that torchvision downloads")

    def decode(allocate: Allocate) -> Content:
        # torchvision checks the same sums, but does not say which file is damaged.
        for file, (_, md5) in zip(files, expected, strict=True):
            if (found := calculate_md5(file)) != md5:
                raise UserError(f"{file}: damaged: it has md5 {found[:12]}, expected {md5[:12]}")
        train, test = (
            _from_torchvision(source(root, train=train), pixels)
            for train, pixels in zip((True, False), allocate(_SHAPES), strict=True)
        )
        return Content.measure(cifar.classes, train, test)

    return _dataset(cifar, content_of(cifar.name, files, None, decode))


def _from_torchvision(split: Any, pixels: np.ndarray) -> Images:
    pixels[...] = split.data.transpose(0, 3, 1, 2)
    return Images(torch.from_numpy(pixels), torch.tensor(split.targets, dtype=torch.int64))


def _download(cifar: Cifar, data_dir: Path) -> None:
    from torchvision import datasets

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / f".{cifar.name}.lock"):  # one process fetches, the others find it
            getattr(datasets, cifar.torchvision_class)(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{cifar.name}: cannot be downloaded to {data_dir} ({error})") from error


def _dataset(cifar: Cifar, content: Content) -> Dataset:
    return content.dataset(cifar.name, crop_padding=4, flip=True)
