"""From compressed images to uint8 arrays, wherever those are: in memory or in a mapped file."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageOps

from trainables.data.dataset import Images, Sizes
from trainables.data.image_formats import Trait, image_size, read_image
from trainables.data.notes import plural
from trainables.data.progress_line import ProgressLine
from trainables.errors import UserError

DEFAULT_IMAGE_SIZE = 224
# PIL holds the interpreter lock for an eighth of the work on a photograph: more would only wait.
_MOST_THREADS = 8
# How many images are read ahead of each thread: enough that none waits, and little memory.
_AHEAD = 4
# Below this, PIL spends its time holding the interpreter lock, and threads only fight for it:
# measured on 32x32 PNG, one thread decodes 16,000 images/s and two together 9,000.
_THREADS_PAY_OFF_BYTES = 16_384
_REMARKS = {
    Trait.TURNED: "turned upright, as their EXIF orientation says",
    Trait.TRANSPARENT: "partly transparent: shown on white",
    Trait.ANIMATED: "animated or of several pages: only the first picture of each is read",
}

_Decoded = tuple[tuple[int, int], Trait]
Shape = tuple[int, int, int, int]
Allocate = Callable[[Sequence[Shape]], list[np.ndarray]]
"""Gives room for pixels: a uint8 array of each shape ``(N, 3, height, width)``, to be filled."""


@dataclass(frozen=True)
class EncodedSplit:
    """The still compressed images of a training or test set.

    Attributes:
        name: for progress and errors, for example ``"cifar10 train"``.
        labels: int64 ``[N]``, or uint8 ``[N, classes]``.
        images: starts a pass over the images in order: where each one lies (for errors) and its
            bytes.
    """

    name: str
    labels: np.ndarray
    images: Callable[[], Iterator[tuple[str, bytes]]]


@dataclass
class Seen:
    """What was met while a split was decoded.

    Attributes:
        digests: uint64 ``[N]``, of the compressed images.
        traits: how many images have each.
        sizes: the least and the greatest ``(width, height)``, by area.
    """

    digests: np.ndarray
    traits: Counter[Trait] = field(default_factory=Counter)
    sizes: Sizes = ()

    @classmethod
    def nothing(cls, images: int) -> "Seen":
        return cls(np.zeros(images, dtype=np.uint64))

    def add(self, decoded: _Decoded) -> None:
        size, trait = decoded
        if trait:
            self.traits.update(trait)
        if size not in self.sizes:
            self.sizes = _outer((*self.sizes, size))


def _outer(sizes: Sizes) -> Sizes:
    order = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return tuple(order) if len(order) < 2 else (order[0], order[-1])


def decode_resized(
    splits: Sequence[EncodedSplit],
    image_size: int | None,
    allocate: Allocate,
    *,
    squash: bool = False,
) -> tuple[tuple[Images, Images], tuple[str, ...], Sizes]:
    """Decode several splits to one common size.

    Args:
        splits: training and test set.
        image_size: side of the square all images become. None keeps the size where all images
            share one and is 224 otherwise.
        allocate: where the pixels go; asked once, for all splits.
        squash: whether a whole image is squeezed into the square, rather than its centre cut out.

    Returns:
        The images, what should be said about them, and the sizes that they had.

    Raises:
        UserError: as `decode_split` and ``allocate``.
    """
    side = image_size or DEFAULT_IMAGE_SIZE
    common = None if image_size else _common_size(splits)
    height, width = common or (side, side)
    room = allocate([(len(split.labels), 3, height, width) for split in splits])
    seen = [
        decode_split(split, pixels, resize=True, squash=squash)
        for split, pixels in zip(splits, room, strict=True)
    ]
    sizes = _outer(tuple({size for split in seen for size in split.sizes}))
    remarks = _remarks(splits, seen)
    if not (common or image_size):
        (w1, h1), (w2, h2) = sizes[0], sizes[-1]
        remarks.append(
            f"images of different sizes ({w1}x{h1} to {w2}x{h2}) and no image_size given: "
            f"all become {side}x{side}"
        )
    train, test = (
        Images(torch.from_numpy(pixels), torch.from_numpy(split.labels))
        for split, pixels in zip(splits, room, strict=True)
    )
    return (train, test), tuple(remarks), sizes


def _remarks(splits: Sequence[EncodedSplit], seen: Sequence[Seen]) -> list[str]:
    total = sum(len(split.labels) for split in splits)
    traits = sum((each.traits for each in seen), Counter[Trait]())
    found = [
        f"{traits[trait]:,} of {total:,} images are {words}"
        for trait, words in _REMARKS.items()
        if traits[trait]
    ]
    return found + _copies(splits, seen)


def _copies(splits: Sequence[EncodedSplit], seen: Sequence[Seen]) -> list[str]:
    """Images that occur where they spoil a result: in both sets, or in two classes."""
    found = []
    train, test = splits
    again = np.isin(seen[1].digests, seen[0].digests)
    if again.any():
        found.append(
            f"warning: {int(again.sum()):,} of {len(again):,} test images are training images as "
            f"well, to the byte: accuracy on them says nothing (first: {_where(test, again)})"
        )
    keys = np.atleast_2d(train.labels.T)
    order = np.lexsort((*keys, seen[0].digests))
    digests, labels = seen[0].digests[order], keys[:, order]
    torn = (digests[1:] == digests[:-1]) & (labels[:, 1:] != labels[:, :-1]).any(axis=0)
    if torn.any():
        images = np.isin(seen[0].digests, digests[1:][torn])
        found.append(
            f"warning: {plural(len(np.unique(digests[1:][torn])), 'training image')} in several "
            f"classes, to the byte (first: {_where(train, images)})"
        )
    return found


def _where(split: EncodedSplit, marked: np.ndarray) -> str:
    """Where the first marked image lies."""
    first = int(marked.argmax())
    (where, _) = next(islice(split.images(), first, None))
    return where


def decode_split(
    split: EncodedSplit, into: np.ndarray, *, resize: bool, squash: bool = False
) -> Seen:
    """Decode all images of a split as RGB.

    Beside ``into`` it needs memory for a few images per core, however many there are.

    Args:
        split: the compressed images.
        into: uint8 ``[N, 3, height, width]``, to be filled.
        resize: bring images of another size to that of ``into`` (the largest centred crop of that
            shape, resampled bilinearly with antialiasing); otherwise they are refused.
        squash: resize the whole image, whatever its shape, in place of the crop.

    Raises:
        UserError: an image does not decode or has the wrong size; the message says which.
    """
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    progress = ProgressLine(f"decoding {split.name}", len(into))
    under_way: deque[Future[_Decoded]] = deque()
    seen = Seen.nothing(len(into))
    pool = ThreadPoolExecutor(threads)
    try:
        for done, (where, data) in enumerate(split.images()):
            progress.show(done)
            seen.digests[done] = _digest(data)
            if len(data) < _THREADS_PAY_OFF_BYTES:
                seen.add(_decode(where, data, into[done], resize, squash))
                continue
            under_way.append(pool.submit(_decode, where, data, into[done], resize, squash))
            if len(under_way) > threads * _AHEAD:
                seen.add(under_way.popleft().result())
        for image in under_way:
            seen.add(image.result())
    finally:
        pool.shutdown(cancel_futures=True)
    progress.close()
    return seen


def _common_size(splits: Sequence[EncodedSplit]) -> tuple[int, int] | None:
    """``(height, width)`` where all images of all splits share one, else None. Reads headers."""
    found: set[tuple[int, int]] = set()
    for split in splits:
        for where, data in split.images():
            found.add(image_size(where, data))
            if len(found) > 1:
                return None
    return found.pop() if found else None


def _decode(where: str, data: bytes, into: np.ndarray, resize: bool, squash: bool) -> "_Decoded":
    """Fill ``into``, uint8 ``[3, height, width]``."""
    image, trait = read_image(where, data)
    size = image.size
    _, height, width = into.shape
    if size != (width, height):
        if not resize:
            raise UserError(
                f"{where}: the image has {image.width}x{image.height} pixels, "
                f"expected {width}x{height}"
            )
        to, how = (width, height), Image.Resampling.BILINEAR
        image = image.resize(to, how) if squash else ImageOps.fit(image, to, how)
    into[...] = np.asarray(image).transpose(2, 0, 1)
    return size, trait


def _digest(data: bytes) -> int:
    """Enough to find equal files: two of a million differing ones share it once in 30 million."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
