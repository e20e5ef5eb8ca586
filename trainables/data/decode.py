"""From compressed images to one uint8 array."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageOps

from trainables.data.dataset import Images
from trainables.errors import UserError

DEFAULT_IMAGE_SIZE = 224
_CHUNK = 512
# Below this, PIL spends its time holding the interpreter lock, and threads only fight for it:
# measured on 32x32 PNG, one thread decodes 16,000 images/s and two together 9,000.
_THREADS_PAY_OFF_BYTES = 16_384
_DEEP_MODES = ("I", "F")


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


def decode_resized(splits: Sequence[EncodedSplit], image_size: int | None) -> list[Images]:
    """Decode several splits to one common size.

    Args:
        splits: training and test set.
        image_size: side of the square all images become. None keeps the size where all images
            share one and is 224 otherwise.

    Raises:
        UserError: as `decode_split`.
    """
    side = image_size or DEFAULT_IMAGE_SIZE
    size = (None if image_size else _common_size(splits)) or (side, side)
    return [
        Images(
            torch.from_numpy(decode_split(split, size, resize=True)), torch.from_numpy(split.labels)
        )
        for split in splits
    ]


def decode_split(split: EncodedSplit, size: tuple[int, int], *, resize: bool) -> np.ndarray:
    """Decode all images of a split as RGB.

    Args:
        split: the compressed images.
        size: ``(height, width)`` of the result.
        resize: bring images of another size to ``size`` (the largest centred crop of that
            shape, resampled bilinearly with antialiasing); otherwise they are refused.

    Returns:
        uint8 ``[N, 3, height, width]``.

    Raises:
        UserError: an image does not decode or has the wrong size; the message says which. Or
            the decoded set cannot fit into this machine's memory.
    """
    count = len(split.labels)
    decoded = _allocate(split.name, (count, 3, *size))
    images = split.images()
    progress = _Progress(f"decoding {split.name}", count)
    done = 0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(images, _CHUNK)):
            jobs = [(where, data, size, resize) for where, data in chunk]
            threads = sum(len(data) for _, data in chunk) >= len(chunk) * _THREADS_PAY_OFF_BYTES
            pixels = pool.map(_decode, jobs) if threads else map(_decode, jobs)
            for image in pixels:
                decoded[done] = image.transpose(2, 0, 1)
                done += 1
            progress.show(done)
    progress.close()
    return decoded


def _common_size(splits: Sequence[EncodedSplit]) -> tuple[int, int] | None:
    """``(height, width)`` where all images of all splits share one, else None. Reads headers."""
    found: set[tuple[int, int]] = set()
    for split in splits:
        for where, data in split.images():
            found.add(_size(where, data))
            if len(found) > 1:
                return None
    return found.pop() if found else None


def _decode(job: tuple[str, bytes, tuple[int, int], bool]) -> np.ndarray:
    where, data, size, resize = job
    image = _open(where, data, load=True)
    if (image.height, image.width) != size:
        if not resize:
            raise UserError(
                f"{where}: the image has {image.width}x{image.height} pixels, "
                f"expected {size[1]}x{size[0]}"
            )
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _size(where: str, data: bytes) -> tuple[int, int]:
    image = _open(where, data, load=False)
    return image.height, image.width


def _open(where: str, data: bytes, *, load: bool) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise ValueError(f"pixels of mode {image.mode}, expected 8 bits per channel")
            return image.convert("RGB") if load else image
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"{where}: does not decode as an image ({error})") from error


def _allocate(name: str, shape: tuple[int, ...]) -> np.ndarray:
    needed = int(np.prod(shape))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"{name}: {shape[0]} images of {shape[3]}x{shape[2]} pixels need {needed / 2**30:.0f} "
            f"GiB, more than this machine's memory; choose a smaller image_size"
        )
    return np.empty(shape, dtype=np.uint8)


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
