"""From compressed images to uint8 arrays, wherever those are: in memory or in a mapped file."""

import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from trainables.data.dataset import Images
from trainables.errors import UserError

DEFAULT_IMAGE_SIZE = 224
# PIL holds the interpreter lock for an eighth of the work on a photograph: more would only wait.
_MOST_THREADS = 8
# How many images are read ahead of each thread: enough that none waits, and little memory.
_AHEAD = 4
# Below this, PIL spends its time holding the interpreter lock, and threads only fight for it:
# measured on 32x32 PNG, one thread decodes 16,000 images/s and two together 9,000.
_THREADS_PAY_OFF_BYTES = 16_384
_DEEP_MODES = ("I", "F")

Shape = tuple[int, int, int, int]
Allocate = Callable[[Sequence[Shape]], list[np.ndarray]]
"""Gives room for pixels: a uint8 array of each shape ``(N, 3, height, width)``, to be filled."""


@dataclass(frozen=True)
class EncodedSplit:
    """The still compressed images of a training or test set.

    Attributes:
        name: for progress and errors, for example ``"cifar10 train"``.
        labels: int64 ``[N]``.
        images: starts a pass over the images in order: where each one lies (for errors) and its
            bytes.
    """

    name: str
    labels: np.ndarray
    images: Callable[[], Iterator[tuple[str, bytes]]]


def decode_resized(
    splits: Sequence[EncodedSplit], image_size: int | None, allocate: Allocate
) -> list[Images]:
    """Decode several splits to one common size.

    Args:
        splits: training and test set.
        image_size: side of the square all images become. None keeps the size where all images
            share one and is 224 otherwise.
        allocate: where the pixels go; asked once, for all splits.

    Raises:
        UserError: as `decode_split` and ``allocate``.
    """
    side = image_size or DEFAULT_IMAGE_SIZE
    height, width = (None if image_size else _common_size(splits)) or (side, side)
    room = allocate([(len(split.labels), 3, height, width) for split in splits])
    for split, pixels in zip(splits, room, strict=True):
        decode_split(split, pixels, resize=True)
    return [
        Images(torch.from_numpy(pixels), torch.from_numpy(split.labels))
        for split, pixels in zip(splits, room, strict=True)
    ]


def decode_split(split: EncodedSplit, into: np.ndarray, *, resize: bool) -> None:
    """Decode all images of a split as RGB.

    Beside ``into`` it needs memory for a few images per core, however many there are.

    Args:
        split: the compressed images.
        into: uint8 ``[N, 3, height, width]``, to be filled.
        resize: bring images of another size to that of ``into`` (the largest centred crop of that
            shape, resampled bilinearly with antialiasing); otherwise they are refused.

    Raises:
        UserError: an image does not decode or has the wrong size; the message says which.
    """
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    progress = _Progress(f"decoding {split.name}", len(into))
    under_way: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for done, (where, data) in enumerate(split.images()):
            progress.show(done)
            if len(data) < _THREADS_PAY_OFF_BYTES:
                _decode(where, data, into[done], resize)
                continue
            under_way.append(pool.submit(_decode, where, data, into[done], resize))
            if len(under_way) > threads * _AHEAD:
                under_way.popleft().result()
        for image in under_way:
            image.result()
    finally:
        pool.shutdown(cancel_futures=True)
    progress.close()


def _common_size(splits: Sequence[EncodedSplit]) -> tuple[int, int] | None:
    """``(height, width)`` where all images of all splits share one, else None. Reads headers."""
    found: set[tuple[int, int]] = set()
    for split in splits:
        for where, data in split.images():
            found.add(_size(where, data))
            if len(found) > 1:
                return None
    return found.pop() if found else None


def _decode(where: str, data: bytes, into: np.ndarray, resize: bool) -> None:
    """Fill ``into``, uint8 ``[3, height, width]``."""
    image = _open(where, data, load=True)
    _, height, width = into.shape
    if (image.height, image.width) != (height, width):
        if not resize:
            raise UserError(
                f"{where}: the image has {image.width}x{image.height} pixels, "
                f"expected {width}x{height}"
            )
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    into[...] = np.asarray(image).transpose(2, 0, 1)


def _size(where: str, data: bytes) -> tuple[int, int]:
    image = _open(where, data, load=False)
    return image.height, image.width


def _open(where: str, data: bytes, *, load: bool) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise ValueError(f"pixels of mode {image.mode}, expected 8 bits per channel")
            if load and image.mode == "RGB":
                image.load()
                return image
            return image.convert("RGB") if load else image
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"{where}: does not decode as an image ({error})") from error


class _Progress:
    """One line on stderr, for work that takes longer than two seconds."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._next = time.monotonic() + 2
        self._shown = False
        # A log file gets a line now and then instead of one that overwrites itself.
        terminal = sys.stderr.isatty()
        self._interval = 0.5 if terminal else 10.0
        self._end = "\r" if terminal else "\n"

    def show(self, done: int) -> None:
        if time.monotonic() >= self._next:
            self._shown = True
            self._next = time.monotonic() + self._interval
            print(f"{self._label}: {done:,} of {self._total:,}", end=self._end, file=sys.stderr)

    def close(self) -> None:
        if self._shown:
            print(f"{self._label}: {self._total:,} done{'':12}", file=sys.stderr)
