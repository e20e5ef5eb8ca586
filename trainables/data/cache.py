"""Decoded images on disk, so that a node decodes once and its processes share one copy.

``KDSWEEP_CACHE/data/<key>/`` holds four ``.npy`` files and ``content.json`` with their digests. The
folder is built under another name and renamed when complete; one process builds, the others wait.
The arrays are memory-mapped: all processes of a node share the pages.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from trainables.data.dataset import Content, Images, digest

# Raise it whenever the same files would decode to other pixels or be stored otherwise.
_FORMAT = 1
_RECORD = "content.json"
# Hashing CIFAR takes 0.1 s per load. Sets beyond this are checked by shape and file size alone.
_VERIFY_BYTES = 1 << 30


def cache_root() -> Path:
    """``$KDSWEEP_CACHE``, by default ``~/.cache/kdsweep``: what a machine can make again.

    Raises:
        RuntimeError: neither ``KDSWEEP_CACHE`` nor a home directory is known.
    """
    configured = os.environ.get("KDSWEEP_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "kdsweep"


def cache_folder() -> Path:
    """Where decoded data sets are, in `cache_root`; raises as that does."""
    return cache_root() / "data"


def content_of(
    kind: str, files: Sequence[Path], image_size: int | None, decode: Callable[[], Content]
) -> Content:
    """What ``decode`` returns, from the cache where ``files`` were decoded before.

    Args:
        kind: the source, for example ``"cifar10"``.
        files: everything ``decode`` reads; a change of path, size or modification time decodes
            again.
        image_size: as asked for by the user.
        decode: reads and checks the files.

    A damaged entry is decoded again. Where the folder cannot be written, every process decodes
    for itself, with a warning.
    """
    try:
        entry = cache_folder() / f"{kind}-{_key(kind, files, image_size)}"
        if content := _open(entry):
            return content
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{entry}.lock")
        lock.acquire()
    except (OSError, RuntimeError) as error:
        _warn(error)
        return decode()
    try:
        # Whoever held the lock before us may have built it.
        return _open(entry) or _build(entry, decode)
    finally:
        lock.release()


def _build(entry: Path, decode: Callable[[], Content]) -> Content:
    """Decode, and share the result with the other processes where that is possible."""
    content = decode()
    try:
        _store(content, entry)
    except OSError as error:
        _warn(error)
        return content
    return _open(entry) or content


def _key(kind: str, files: Sequence[Path], image_size: int | None) -> str:
    states = [(file.resolve(), file.stat()) for file in files]
    identity = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in states]
    record = json.dumps([_FORMAT, kind, image_size, identity])
    return hashlib.sha256(record.encode()).hexdigest()[:24]


def _store(content: Content, entry: Path) -> None:
    """Write under another name, then rename. The caller holds the lock of ``entry``."""
    building = entry.with_name(f"{entry.name}.building")
    for old in (building, entry):
        if old.exists():
            shutil.rmtree(old)
    building.mkdir()
    try:
        for name, split in (("train", content.train), ("test", content.test)):
            np.save(building / f"{name}_images.npy", split.images.numpy())
            np.save(building / f"{name}_labels.npy", split.labels.numpy())
        record = {
            "classes": content.classes,
            "train_digest": content.train_digest,
            "test_digest": content.test_digest,
            "mean": content.mean,
            "std": content.std,
        }
        (building / _RECORD).write_text(json.dumps(record, indent=1))
        building.rename(entry)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _open(entry: Path) -> Content | None:
    """The entry, or None where it is absent or damaged."""
    try:
        record = json.loads((entry / _RECORD).read_text())
        content = Content(
            classes=tuple(record["classes"]),
            train=_open_split(entry, "train"),
            test=_open_split(entry, "test"),
            train_digest=record["train_digest"],
            test_digest=record["test_digest"],
            mean=tuple(record["mean"]),
            std=tuple(record["std"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    whole = content.train.images.numel() + content.test.images.numel() > _VERIFY_BYTES or (
        digest(content.train) == content.train_digest
        and digest(content.test) == content.test_digest
    )
    return content if whole else None


def _open_split(entry: Path, name: str) -> Images:
    # Copy-on-write: torch wants writable memory, and the file must never change.
    images = np.load(entry / f"{name}_images.npy", mmap_mode="c")
    labels = np.load(entry / f"{name}_labels.npy")
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(f"{entry}: not decoded images")
    return Images(torch.from_numpy(images), torch.from_numpy(labels))


def _warn(error: Exception) -> None:
    warnings.warn(
        f"the data cache cannot be used ({error}): every process decodes for itself; "
        "set KDSWEEP_CACHE to a writable folder",
        stacklevel=2,
    )
