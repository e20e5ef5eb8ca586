"""Where a set of images, or of their maps, is while networks train on it: on the device, or on the
host.

A set that leaves a GPU room enough lies on it as one tensor. A larger one stays on the host, in
memory or in a memory-mapped file; its batches are gathered ahead of the training and sent.
"""

import ctypes
import functools
import logging
import mmap
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from trainables.once import warn_once
from trainables.worker import kept

log = logging.getLogger(__name__)

SHARE = 0.25
"""Of a GPU's free memory, what a set of images may take where ``auto`` decides."""

HOST_SHARE = 0.5
"""Of a computer's memory: a larger set is read from its disk, and ahead."""

AHEAD = 3
"""Batches that are gathered on the host, or waited for on its disk, while one is trained on."""


class PlacedImages(ABC):
    """A set of images, from which batches come to a device.

    Wherever the set is, the batches are the same.

    Args:
        images: ``[N, C, H, W]``: uint8, or maps of any type.
        device: where batches are wanted.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images, self.device = images, device

    def __len__(self) -> int:
        return len(self.images)

    @abstractmethod
    def batch(self, indices: Tensor, there: Tensor) -> Tensor:
        """Some of the images.

        Args:
            indices: int64 ``[B]``, on the CPU.
            there: the same, on the device.

        Returns:
            ``[B, C, H, W]`` on the device, of the set's type. It need not have arrived yet: what is
            asked of the device later finds it.

        Raises:
            IndexError: an index is not one of the set (on a GPU, an error of the device).
        """

    def batches(self, plan: Sequence[Tensor], there: Sequence[Tensor]) -> Iterator[Tensor]:
        """`batch` of each of ``plan`` in turn, prepared before it is asked for where that helps.

        Whoever may leave the loop early and keep the iterator closes it.

        Args:
            plan: int64 ``[B]`` each, on the CPU.
            there: the same, on the device.
        """
        for indices, places in zip(plan, there, strict=True):
            yield self.batch(indices, places)


class ImagesOnDevice(PlacedImages):
    """The whole set as one tensor on the device: see `PlacedImages`."""

    def batch(self, indices: Tensor, there: Tensor) -> Tensor:
        return self.images.index_select(0, there)


class ImagesOnHost(PlacedImages):
    """The set in memory or in a memory-mapped file, batches on the device: see `PlacedImages`."""

    def batch(self, indices: Tensor, there: Tensor) -> Tensor:
        return self._gathered(indices).to(self.device, non_blocking=True)

    def batches(self, plan: Sequence[Tensor], there: Sequence[Tensor]) -> Iterator[Tensor]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="images")
        try:
            rest = (pool.submit(self._gathered, indices) for indices in plan)
            under_way: deque[Future[Tensor]] = deque(islice(rest, AHEAD))
            while under_way:
                gathered = under_way.popleft().result()
                under_way.extend(islice(rest, 1))
                yield gathered.to(self.device, non_blocking=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def _gathered(self, indices: Tensor) -> Tensor:
        """``[B, C, H, W]`` on the host, from where a GPU can copy it by itself."""
        _read_ahead(self.images, indices)
        # PyTorch keeps pinned memory and gives it out again when it has been copied.
        pinned = self.device.type == "cuda"
        shape = (len(indices), *self.images.shape[1:])
        batch = torch.empty(shape, dtype=self.images.dtype, pin_memory=pinned)
        return torch.index_select(self.images, 0, indices, out=batch)


@kept("placed images", entries=4)  # from trial to trial: a GPU has a set once per process
def place_images(images: Tensor, device: torch.device, where: str = "auto") -> PlacedImages:
    """Choose where a set of images is while it is trained on.

    Args:
        images: uint8 ``[N, C, H, W]``, on the CPU.
        device: where batches are wanted.
        where: ``device``: copied there as one tensor; ``host``: left where it is; ``auto``: on
            the device if the set takes at most `SHARE` of a GPU's free memory, or `HOST_SHARE`
            of the computer's where the device is a CPU.
    """
    if stays_on_host("images", images.nbytes, device, where):
        return ImagesOnHost(images, device)
    return ImagesOnDevice(images.to(device), device)


def stays_on_host(what: str, size: int, device: torch.device, where: str) -> bool:
    """Whether something stays on the host while it is trained on; said where a GPU lacks room.

    Args:
        what: it is, for the line.
        size: of it, in bytes.
        device, where: as for `place_images`.
    """
    if where != "auto":
        return where == "host"
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if size <= SHARE * free:
            return False
        warn_once(
            log,
            f"the {what} stay in the host's memory: they take {size / 2**30:.1f} GiB, "
            f"more than {SHARE:.0%} of the {free / 2**30:.1f} GiB that are free on the GPU",
        )
        return True
    if device.type == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return size > HOST_SHARE * memory
    return False


def _read_ahead(images: Tensor, indices: Tensor) -> None:
    """Has the disk read given images of a memory map, all at once and no others.

    Left alone, the system reads where a page is missed, one place after the other, and much
    around it. Measured on images of 224x224 pixels that were not in memory: 3,400 images/s with
    this, 800 without; and an epoch of a set twice as large as the memory: 960 against 75. For
    memory that is no file it does nothing.
    """
    size = images[0].nbytes
    for index in indices.tolist():
        start = images.data_ptr() + index * size
        page = start - start % mmap.PAGESIZE
        _madvise()(page, start + size - page, mmap.MADV_WILLNEED)


@functools.cache
def _madvise() -> Callable[[int, int, int], int]:
    """``madvise`` of the C library: Python's belongs to an object that a tensor does not show."""
    found = ctypes.CDLL(None).madvise
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found
