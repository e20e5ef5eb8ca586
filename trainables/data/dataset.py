"""What a source of images gives to the rest: pixels, labels, classes and their fingerprint."""

import hashlib
import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainables.data.labels import check_labels, class_counts, label_bytes
from trainables.data.notes import listed

# Pixels become eight times as many bytes, which should stay in a core's cache.
_STATISTICS_BLOCK = 1 << 17
_HASHED_BLOCK = 1 << 24

SINGLE_LABEL = "single-label"
"""The task of a data set that names none."""

MULTI_LABEL = "multi-label"
"""The task of a data set whose images may be of several classes."""

Sizes = tuple[tuple[int, int], ...]
"""The least and the greatest ``(width, height)`` of images, or the only one, or none known."""


VOID = 255
"""In a mask: of no class, and not of the background either. It counts neither way."""


@dataclass(frozen=True, eq=False)
class Masks:
    """Where in some images of a set the classes are.

    Attributes:
        positions: which images of the set have a mask, int64 ``[M]``, sorted.
        values: uint8 ``[M, H, W]``: k + 1 for class k, 0 for the background, `VOID`.
    """

    positions: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images.

    Attributes:
        images: uint8 ``[N, C, H, W]``. It may be a private view of a file that all processes of
            a node share, and larger than the memory: treat it as read-only, and do not copy it.
        labels: int64 ``[N]``, class indices; of a multi-label set uint8 or bool ``[N, classes]``:
            see `trainables.data.labels`.
        masks: of a set that has some.
    """

    images: Tensor
    labels: Tensor
    masks: Masks | None = None

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set, its untouched test set, and what identifies both.

    Attributes:
        name: as the user wrote it, for example ``"cifar10"``.
        classes: class names; the position is the label.
        train: the whole training set; `split.stratified_split` cuts the validation part from it.
        fingerprint: sha256 (hex) over pixels, labels, masks and classes of training and test set.
        crop_padding: default augmentation: zero pixels added on each side before the random crop.
        flip: default augmentation: whether a view may be mirrored left to right.
        resized_crops: default augmentation: boxes that are resized to the whole image, in place
            of padded crops; 0: none. See `trainables.data.resized_crops`.
        mean: per channel, over the training images scaled to [0, 1].
        std: per channel, likewise (population standard deviation; 1 for a constant channel).
        notes: what a user should know of how it was read, each a line: what was left out, what
            was guessed, which classes have no images. See `notes.say_notes`.
        sources: where the training and the test images come from, in words.
        sizes: of the images before they were brought to one size.
        task: what is asked of a network: a name of `trainables.tasks.registry`.
        squeezed: whether images of another shape were squeezed to that of the others, and nothing
            cut off.
    """

    name: str
    classes: tuple[str, ...]
    train: Images = field(repr=False)
    fingerprint: str
    crop_padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    _test: Images = field(repr=False)
    notes: tuple[str, ...] = ()
    sources: tuple[str, str] = ("", "")
    sizes: Sizes = ()
    task: str = SINGLE_LABEL
    resized_crops: int = 0
    squeezed: bool = False

    def read_test(self) -> Images:
        """The test set. Asked for once, after a trial's last epoch; nothing is selected on it."""
        return self._test

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


@dataclass(frozen=True)
class Content:
    """A dataset's pixels and labels with what was computed from them.

    Attributes:
        classes: class names; the position is the label.
        train: training images.
        test: test images.
        train_digest: `digest` of ``train``.
        test_digest: `digest` of ``test``.
        mean: see `Dataset`.
        std: see `Dataset`.
        notes: what was met while the files were decoded; see `Dataset`.
        sizes, task: see `Dataset`.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images
    train_digest: str
    test_digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    sizes: Sizes = ()
    task: str = SINGLE_LABEL

    @classmethod
    def measure(
        cls,
        classes: tuple[str, ...],
        train: Images,
        test: Images,
        notes: tuple[str, ...] = (),
        sizes: Sizes = (),
        task: str = SINGLE_LABEL,
    ) -> "Content":
        """Digests and channel statistics of freshly decoded images.

        Raises:
            ValueError: labels of many classes that have not the form of `Images`.
        """
        for split in (train, test):
            check_labels(split.labels, len(split), len(classes))
        # At once: much of a set that is larger than the memory is then read only once.
        with ThreadPoolExecutor(1) as pool:
            statistics = pool.submit(channel_statistics, train.images)
            digests = digest(train), digest(test)
            mean, std = statistics.result()
        return cls(classes, train, test, *digests, mean, std, notes, sizes, task)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over pixels, labels, masks, classes and task of both sets."""
        record = [list(self.classes), self.train_digest, self.test_digest]
        record += [] if self.task == SINGLE_LABEL else [self.task]
        return hashlib.sha256(json.dumps(record).encode()).hexdigest()

    def dataset(
        self,
        name: str,
        *,
        crop_padding: int,
        flip: bool,
        resized_crops: int = 0,
        notes: tuple[str, ...] = (),
        sources: tuple[str, str] = ("", ""),
        squeezed: bool = False,
    ) -> Dataset:
        """The `Dataset` with this content and the given default augmentation.

        Args:
            name, crop_padding, flip, resized_crops, sources, squeezed: see `Dataset`.
            notes: what is to be said before the content's own.
        """
        return Dataset(
            name=name,
            classes=self.classes,
            train=self.train,
            fingerprint=self.fingerprint,
            crop_padding=crop_padding,
            flip=flip,
            mean=self.mean,
            std=self.std,
            _test=self.test,
            notes=(*notes, *self.notes, *self._alike(), *self._absent()),
            sources=sources,
            sizes=self.sizes,
            task=self.task,
            resized_crops=resized_crops,
            squeezed=squeezed,
        )

    def _alike(self) -> Iterator[str]:
        """Says which classes may be one: right for letters, a slip for most others."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.classes:
            groups[unicodedata.normalize("NFC", name).casefold().strip()].append(name)
        if alike := ["/".join(names) for names in groups.values() if len(names) > 1]:
            yield f"classes whose names differ in case, blanks or nothing: {listed(alike)}"

    def _absent(self) -> Iterator[str]:
        """Says which classes have no images."""
        total = len(self.classes)
        for kind, split in (("training", self.train), ("test", self.test)):
            counts = class_counts(split.labels, total).tolist()
            names = [name for name, count in zip(self.classes, counts, strict=True) if not count]
            if names:
                yield (
                    f"warning: {len(names):,} of {total:,} classes "
                    f"{'has' if len(names) == 1 else 'have'} no {kind} images: {listed(names)}"
                )


def digest(split: Images) -> str:
    """sha256 (hex) over the shape, the pixels and the labels of ``split``, and masks if any."""
    digested = hashlib.sha256(json.dumps(list(split.images.shape)).encode())
    for block in _blocks(split.images, _HASHED_BLOCK):
        digested.update(block.contiguous().numpy().data)
    digested.update(label_bytes(split.labels))
    if split.masks is not None:
        digested.update(json.dumps(list(split.masks.values.shape)).encode())
        digested.update(split.masks.positions.numpy().astype("<i8").tobytes())
        digested.update(split.masks.values.contiguous().numpy().data)
    return digested.hexdigest()


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 ``[N, C, H, W]``, scaled to [0, 1].

    Computed from exact integer sums, so that every platform gets the same floats. A constant
    channel has std 1: dividing by it stays defined.
    """
    count, channels, height, width = images.shape
    sums = torch.zeros(2, channels, dtype=torch.int64)
    blocks = _blocks(images, _STATISTICS_BLOCK)
    buffer = torch.empty(blocks[0].shape, dtype=torch.float64)  # 4 times faster than ever new ones
    for block in blocks:
        values = buffer[: len(block)].copy_(block)  # exact: a block's sums are far below 2^53
        sums[0] += values.sum((0, 2, 3)).long()
        sums[1] += values.square_().sum((0, 2, 3)).long()
    total = count * height * width
    mean, std = [], []
    for first, second in zip(*sums.tolist(), strict=True):
        mean.append(first / total / 255)
        # total^2 times the variance is an exact integer: no cancellation.
        variance = (total * second - first**2) / total**2
        std.append(math.sqrt(variance) / 255 or 1.0)
    return tuple(mean), tuple(std)


def _blocks(images: Tensor, pixels: int) -> tuple[Tensor, ...]:
    """Views of ``images`` of about ``pixels`` bytes each, and of one image at least."""
    return images.split(max(1, pixels // images.shape[1:].numel()))
