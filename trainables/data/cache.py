"""Decoded images on disk, so that a node decodes once and its processes share one copy.

``KDSWEEP_CACHE/data/<key>/`` holds ``.npy`` files and ``content.json`` with their digests. The
folder is built under another name and renamed when complete; one process builds, the others wait.
The arrays are memory-mapped, while they are decoded as well: all processes of a node share the
pages, and a set may be larger than the memory.
"""

import errno
import functools
import hashlib
import json
import math
import mmap
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from trainables.cache_root import cache_root
from trainables.data.dataset import SINGLE_LABEL, Content, Images, Masks, digest
from trainables.data.decode import Allocate, Shape
from trainables.errors import UserError

# Raise it whenever the same files would decode to other pixels or be stored otherwise.
_FORMAT = 2
_RECORD = "content.json"
_SPLITS = ("train", "test")
# Hashing CIFAR takes 0.1 s per load. Sets beyond this are checked by shape and file size alone.
_VERIFY_BYTES = 1 << 30
# Without it Linux refuses a writable private view that is larger than the memory. Python has
# the name from 3.13 on; the number is that of all but a few old architectures.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def cache_folder() -> Path:
    """Where decoded data sets are, in `cache_root`; raises as that does."""
    return cache_root() / "data"


def content_of(
    name: str,
    files: Sequence[str | Path],
    image_size: int | None,
    decode: Callable[[Allocate], Content],
    *,
    reading: object = None,
    masks: int = 0,
) -> Content:
    """What ``decode`` returns, from the cache where ``files`` were decoded before.

    Args:
        name: of the data set, for example ``"cifar10"`` or ``"imagefolder:flowers"``.
        files: everything ``decode`` reads; a change of path, size or modification time decodes
            again.
        image_size: as asked for by the user.
        decode: reads and checks the files. It asks once for room for the training and the test
            images, and returns them in the arrays that it was given.
        reading: whatever else decides what is made of the files, such as the names of classes;
            plain values.
        masks: how many masks it will return beside the images, of their size.

    Raises:
        UserError: the disk of the cache has no room for images and masks, or, where the folder
            cannot be written, the memory; and whatever ``decode`` raises.

    A damaged entry is decoded again. Where the folder cannot be written, every process decodes
    for itself, into its memory, with a warning.
    """
    kind, in_memory = name.partition(":")[0], functools.partial(_in_memory, name, masks)
    try:
        entry = cache_folder() / f"{kind}-{_key(kind, files, image_size, reading)}"
        if content := _open(entry):
            return content
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{entry}.lock")
        lock.acquire()
    except (OSError, RuntimeError) as error:
        _warn(error)
        return decode(in_memory)
    try:
        # Whoever held the lock before us may have built it.
        return _open(entry) or _build(name, entry, decode, masks)
    finally:
        lock.release()


def _build(name: str, entry: Path, decode: Callable[[Allocate], Content], masks: int) -> Content:
    """Decode into files, and share them with the other processes where that is possible.

    They get their name when they are whole. The caller holds the lock of ``entry``.
    """
    building = entry.with_name(f"{entry.name}.building")
    in_files = True

    def allocate(shapes: Sequence[Shape]) -> list[np.ndarray]:
        nonlocal in_files
        try:
            for old in (building, entry):
                if old.exists():
                    shutil.rmtree(old)
            _check_room(name, masks, shapes, entry.parent)
            building.mkdir()
            return [
                _create(building / f"{split}_images.npy", shape)
                for split, shape in zip(_SPLITS, shapes, strict=True)
            ]
        except OSError as error:
            _warn(error)
            in_files = False
            return _in_memory(name, masks, shapes)

    try:
        content = decode(allocate)
        if not in_files:
            return content
        try:
            _complete(content, building)
            building.rename(entry)
            if opened := _open(entry):
                return opened
            raise OSError(f"{entry} cannot be read back")
        except OSError as error:
            # What was decoded stays readable here, although its files lose their names.
            _warn(error)
            shutil.rmtree(entry, ignore_errors=True)
            return content
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _in_memory(name: str, masks: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _bytes(shapes, masks) > memory:
        raise UserError(
            f"{_need(name, masks, shapes)}, more than this machine's memory; "
            "choose a smaller image_size"
        )
    return [np.empty(shape, dtype=np.uint8) for shape in shapes]


def _check_room(name: str, masks: int, shapes: Sequence[Shape], folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if _bytes(shapes, masks) > free:
        raise UserError(
            f"{_need(name, masks, shapes)} in KDSWEEP_CACHE, "
            f"but {cache_root()} has {_gib(free)} free; "
            f"set KDSWEEP_CACHE to a larger disk or choose a smaller image_size"
        )


def _need(name: str, masks: int, shapes: Sequence[Shape]) -> str:
    images, (_, _, height, width) = sum(shape[0] for shape in shapes), shapes[0]
    what = f"{images} images{f' and {masks} masks' if masks else ''} of {width}x{height} pixels"
    return f"{name}: {what} need {_gib(_bytes(shapes, masks))}"


def _bytes(shapes: Sequence[Shape], masks: int) -> int:
    return sum(math.prod(shape) for shape in shapes) + masks * math.prod(shapes[0][2:])


def _gib(size: int) -> str:
    return f"{size / 2**30:.{0 if size >= 10 * 2**30 else 1}f} GiB"


def _create(file: Path, shape: Shape) -> np.ndarray:
    """A mapped file of zeros that has its place on the disk."""
    pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            # Otherwise a disk that others fill meanwhile would end the process by a bus error.
            with open(file, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # others do not know the call
    return pixels


def _key(kind: str, files: Sequence[str | Path], image_size: int | None, reading: object) -> str:
    folders: dict[str, str] = {}  # hundreds of thousands of files lie in few
    identity = []
    for file in files:
        state = os.stat(file)
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.realpath(file) if os.path.islink(file) else f"{folders[folder]}/{name}"
        identity.append([path, state.st_size, state.st_mtime_ns])
    # Names of files need not be text: what is not stands there escaped.
    record = json.dumps([_FORMAT, kind, image_size, reading, identity])
    return hashlib.sha256(record.encode()).hexdigest()[:24]


def _complete(content: Content, building: Path) -> None:
    """Write what belongs to the pixels, when those are on the disk for good."""
    for name, split in zip(_SPLITS, (content.train, content.test), strict=True):
        with open(building / f"{name}_images.npy", "rb") as pixels:
            os.fsync(pixels.fileno())
        np.save(building / f"{name}_labels.npy", split.labels.numpy())
        if split.masks is not None:
            np.save(building / f"{name}_masked.npy", split.masks.positions.numpy())
            np.save(building / f"{name}_masks.npy", split.masks.values.numpy())
    record = {
        "classes": content.classes,
        "train_digest": content.train_digest,
        "test_digest": content.test_digest,
        "mean": content.mean,
        "std": content.std,
        "notes": content.notes,
        "sizes": content.sizes,
        "task": content.task,
        "masked": [len(split.masks or ()) for split in (content.train, content.test)],
    }
    (building / _RECORD).write_text(json.dumps(record, indent=1))


def _open(entry: Path) -> Content | None:
    """The entry, or None where it is absent or damaged."""
    try:
        record = json.loads((entry / _RECORD).read_text())
        train_masks, test_masks = record.get("masked", (0, 0))
        content = Content(
            classes=tuple(record["classes"]),
            train=_open_split(entry, "train", train_masks),
            test=_open_split(entry, "test", test_masks),
            train_digest=record["train_digest"],
            test_digest=record["test_digest"],
            mean=tuple(record["mean"]),
            std=tuple(record["std"]),
            notes=tuple(record["notes"]),
            sizes=tuple((width, height) for width, height in record["sizes"]),
            task=record.get("task", SINGLE_LABEL),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    whole = content.train.images.numel() + content.test.images.numel() > _VERIFY_BYTES or (
        digest(content.train) == content.train_digest
        and digest(content.test) == content.test_digest
    )
    return content if whole else None


def _open_split(entry: Path, name: str, masked: int) -> Images:
    """The images of one set, of which ``masked`` have masks."""
    images = _private_view(entry / f"{name}_images.npy")
    labels = np.load(entry / f"{name}_labels.npy")
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape[:1] != images.shape[:1]:
        raise ValueError(f"{entry}: not decoded images")
    masks = _open_masks(entry, name, (masked, *images.shape[2:])) if masked else None
    return Images(torch.from_numpy(images), torch.from_numpy(labels), masks)


def _open_masks(entry: Path, name: str, shape: tuple[int, ...]) -> Masks:
    positions = np.load(entry / f"{name}_masked.npy")
    values = _private_view(entry / f"{name}_masks.npy")
    if values.dtype != np.uint8 or values.shape != shape or positions.shape != shape[:1]:
        raise ValueError(f"{entry}: not masks of its images")
    return Masks(torch.from_numpy(positions), torch.from_numpy(values))


def _private_view(file: Path) -> np.ndarray:
    """The array in a file, copied on write: torch wants memory that can be written, and the file
    must never change."""
    header = np.lib.format.open_memmap(file, mode="r")  # checks the size as well
    with open(file, "rb") as opened:
        pages = mmap.mmap(
            opened.fileno(),
            header.offset + header.nbytes,
            flags=mmap.MAP_PRIVATE | _NO_RESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    return np.ndarray(header.shape, header.dtype, buffer=pages, offset=header.offset)


def _warn(error: Exception) -> None:
    warnings.warn(
        f"the data cache cannot be used ({error}): every process decodes for itself; "
        "set KDSWEEP_CACHE to a writable folder",
        stacklevel=2,
    )
