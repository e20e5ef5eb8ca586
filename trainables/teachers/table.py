"""What a teacher answers to every view of every training image, remembered on disk.

Crop and flip give an image finitely many views (`trainables.data.views`), so the teacher's output
on each fits in a table: the first trial fills what it shows, later ones look it up. A table is one
sparse file per teacher, data set and kind of output (`trainables.teachers.orbit_file`), shared by
all processes of a node, of which any number may read and fill it at once and be killed at any
moment. An entry that is found is what the live teacher gave, rounded to the table's dtype.
"""

import errno
import mmap
import os
import warnings
import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.teachers.orbit_file import HEADER_BYTES, Records, TableKey, open_file
from trainables.teachers.table_folder import TableUnavailable, cache_limit, check_room


class Values(Records):
    """Values to records and back, for the tables of one key."""

    def __init__(self, key: TableKey) -> None:
        super().__init__(key)
        self._width = key.width
        self._dtype: torch.dtype = getattr(torch, key.dtype)

    def encode(self, entries: np.ndarray, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Records of ``values`` ``[B, width]``.

        Returns:
            uint32 ``[B, words]``, and bool ``[B]``: whether all values of the record are finite
            as stored. Beyond 65504 float16 is infinite, and such a record must not be written.
        """
        records = np.zeros((len(entries), self.words), dtype=np.uint32)
        stored = self._values(records)
        stored.copy_(values)
        records[:, -1] = self.marks(entries, records)
        return records, torch.isfinite(stored).all(1).numpy()

    def decode(self, entries: np.ndarray, records: np.ndarray, out: Tensor) -> Tensor:
        """Writes the values of uint32 ``[B, words]`` to ``out`` ``[B, width]``, NaN where empty.

        Returns:
            bool ``[B]``, whether the record is filled.
        """
        found = torch.from_numpy(self.filled(entries, records))
        out.copy_(self._values(records))
        if not found.all():
            out[~found] = torch.nan
        return found

    def _values(self, records: np.ndarray) -> Tensor:
        # To integers of the values' size first: NumPy has no bfloat16.
        integers = torch.from_numpy(records.view(f"i{self._dtype.itemsize}"))
        return integers.view(self._dtype)[:, : self._width]


class TeacherTable:
    """A teacher's outputs, by image and view. Made by `open`; a context manager.

    Attributes:
        key: what the table holds.
        path: its file.
        writable: False once a write has failed, for example on a full disk; it then serves what
            it has.
    """

    def __init__(self, path: Path, key: TableKey, descriptor: int) -> None:
        self.path = path
        self.key = key
        self.writable = True
        self._images, self._views = key.images, key.views
        self._records = Values(key)
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._rows: np.ndarray | None = None
        if not _in_memory(descriptor):
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            rows = np.frombuffer(self._map, dtype=np.uint32, offset=HEADER_BYTES)
            self._rows = rows.reshape(-1, self._records.words)
        os.utime(descriptor)
        self._released = weakref.finalize(self, os.close, descriptor)  # with its last user

    @classmethod
    def open(cls, folder: Path, key: TableKey, max_bytes: int | None = None) -> "TeacherTable":
        """The table of ``key`` in ``folder``; an empty one if there is none yet.

        Args:
            folder: on a disk of this node, usually `table_folder`.
            key: what it holds.
            max_bytes: what all tables of ``folder`` together may take on the disk, this one
                counted as if it were full; `cache_limit` by default.

        Raises:
            TableUnavailable: the table does not fit in ``max_bytes`` or on the disk, or
                ``folder`` cannot be written.
            UserError: the file is damaged or foreign.
        """
        path = folder / key.file_name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_room(path, key, cache_limit() if max_bytes is None else max_bytes)
            descriptor = open_file(path, key)
            try:
                return cls(path, key, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise TableUnavailable(
                f"no teacher table in {folder} ({error}); set KDSWEEP_CACHE to a writable folder"
            ) from error

    def lookup(
        self, indices: Tensor, view_ids: Tensor, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The entries of a batch, as far as they are filled.

        Args:
            indices: int64 ``[B]``, of images, on the CPU.
            view_ids: int64 ``[B]``, the view of each.
            out: float32 ``[B, width]`` to write to, for example in pinned memory.

        Returns:
            Values, float32 ``[B, width]`` (``out`` if given), NaN where there are none yet; and
            bool ``[B]``, whether the entry was found.

        Raises:
            IndexError: no such image or view.
        """
        entries = self._entries(indices, view_ids)
        if out is None:
            out = torch.empty(len(entries), self.key.width)
        return out, self._records.decode(entries, self._read(entries), out)

    def fill(self, indices: Tensor, view_ids: Tensor, values: Tensor) -> int:
        """Stores what the teacher gave. Filling an entry again is allowed, and wasteful.

        A row with a value that is not finite, or is not in the table's dtype, is left out: its
        entry stays to be computed live. If the disk is full, a warning says so once, and the table
        stores no more.

        Args:
            indices: int64 ``[B]``, of images, on the CPU.
            view_ids: int64 ``[B]``, the view of each.
            values: float ``[B, width]``, on the CPU.

        Returns:
            How many entries were stored.

        Raises:
            IndexError: no such image or view.
        """
        entries = self._entries(indices, view_ids)
        if values.shape != (len(entries), self.key.width):
            expected = f"[{len(entries)}, {self.key.width}]"
            raise ValueError(f"expected values {expected}, not {list(values.shape)}")
        if not self.writable or not len(entries):
            return 0
        records, finite = self._records.encode(entries, values.detach())
        if not finite.all():
            entries, records = entries[finite], records[finite]
        return self._write(entries, records)

    def close(self) -> None:
        """Lets go of the file. It is no error to close twice."""
        if self._descriptor < 0:
            return
        os.utime(self._descriptor)
        self._rows = None
        if self._map is not None:
            self._map.close()
        self._released()
        self._descriptor = -1

    def __enter__(self) -> "TeacherTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entries(self, indices: Tensor, view_ids: Tensor) -> np.ndarray:
        """Numbers of the records, int64 ``[B]``."""
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        images, views = indices.numpy(), view_ids.numpy()
        if images.dtype != np.int64 or views.dtype != np.int64 or images.shape != views.shape:
            raise ValueError("indices and view_ids must be int64 and of one length")
        # A view out of range would be a view of another image. Seen as unsigned, a negative
        # number is a large one.
        if (
            images.view(np.uint64).max(initial=0) >= self._images
            or views.view(np.uint64).max(initial=0) >= self._views
        ):
            raise IndexError(f"the table has {self._images} images with {self._views} views each")
        return images * self._views + views

    def _read(self, entries: np.ndarray) -> np.ndarray:
        """Private copies of the records, uint32 ``[B, words]``."""
        if self._rows is not None:
            return self._rows.take(entries, axis=0)
        size = self._records.bytes
        data = bytearray(len(entries) * size)
        view = memoryview(data)
        for start, offset in enumerate((HEADER_BYTES + entries * size).tolist()):
            os.preadv(self._descriptor, (view[start * size : (start + 1) * size],), offset)
        return np.frombuffer(data, dtype=np.uint32).reshape(-1, self._records.words)

    def _write(self, entries: np.ndarray, records: np.ndarray) -> int:
        """Written with calls, not through the map: there a full disk kills the process (SIGBUS)."""
        size = self._records.bytes
        data = records.tobytes()
        # Neighbours go out together, which matters where a whole table is built in order.
        starts = np.flatnonzero(np.diff(entries, prepend=-2) != 1).tolist()
        offsets = (HEADER_BYTES + entries[starts] * size).tolist()
        written = 0
        try:
            for (start, end), offset in zip(
                pairwise([*starts, len(entries)]), offsets, strict=True
            ):
                done = os.pwrite(self._descriptor, data[start * size : end * size], offset)
                written += done // size
                if done < (end - start) * size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.writable = False
            warnings.warn(
                f"{self.path}: {error.strerror}; the table keeps what it has, and the teacher "
                "runs live on all else",
                stacklevel=3,
            )
        return written


def _in_memory(descriptor: int) -> bool:
    """Whether the file lies in a file system without a disk, such as ``/dev/shm``.

    There, reading a hole through a map allocates its page, and kills the process (SIGBUS) when
    memory is short; reading it with a call does neither.
    """
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    rows = (mount.split(" - ") for mount in mounts if mount.split()[2] == number)
    return any(kind.split()[0] in ("tmpfs", "ramfs") for _, kind in rows)
