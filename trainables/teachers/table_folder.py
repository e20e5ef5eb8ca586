"""The folder of what a node keeps of teachers: where it is, what it may hold, listing, clearing.

Tables of their outputs and files of their attribution maps lie in it and share one cap.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.cache_root import cache_root
from trainables.errors import UserError, unknown
from trainables.teachers import map_file
from trainables.teachers.map_file import MapKey, count_maps
from trainables.teachers.orbit_file import SUFFIX, TableKey, count_filled, read_key

_GB = 10**9
_DEFAULT_GB = 50.0
# What a table leaves free for others: a twentieth of the disk, and no more than this.
_RESERVE = 5 * _GB
_SUFFIXES = (SUFFIX, map_file.SUFFIX)


class TableUnavailable(UserError):
    """Nothing can be kept for this key here. Of a table the caller does without: the teacher runs
    live."""


@dataclass(frozen=True)
class TableFile:
    """A table, or a file of maps, as it lies on the disk.

    Attributes:
        path: its file.
        key: what it holds; None if the file is damaged.
        problem: what is wrong with the file; None if nothing is.
        disk_bytes: what it takes on the disk now; the key's ``file_bytes`` when it is full.
        last_used: when it was last opened, filled or closed, in seconds since 1970.
    """

    path: Path
    key: TableKey | MapKey | None
    problem: str | None
    disk_bytes: int
    last_used: float

    def count_filled(self) -> int:
        """How many of the key's ``entries`` are filled: reads all of it; 0 if it is damaged."""
        if self.key is None:
            return 0
        if isinstance(self.key, MapKey):
            return count_maps(self.path, self.key)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return count_filled(descriptor, self.key)
        finally:
            os.close(descriptor)


def table_folder() -> Path:
    """``$KDSWEEP_CACHE/teacher_outputs``, by default ``~/.cache/kdsweep/teacher_outputs``.

    Raises:
        RuntimeError: neither ``KDSWEEP_CACHE`` nor a home directory is known.
    """
    return cache_root() / "teacher_outputs"


def cache_limit() -> int:
    """Bytes that all files of a folder may take: ``KDSWEEP_CACHE_GB`` times 10^9, or 50 GB.

    With 0 there are no tables, and teachers always run live; methods that read maps are refused.

    Raises:
        UserError: ``KDSWEEP_CACHE_GB`` is not a number from 0.
    """
    configured = os.environ.get("KDSWEEP_CACHE_GB") or str(_DEFAULT_GB)
    try:
        limit = float(configured)
        if 0 <= limit < float("inf"):
            return int(limit * _GB)
    except ValueError:
        pass
    raise UserError(
        f"KDSWEEP_CACHE_GB is '{configured}'; expected a number of gigabytes, 0 or more"
    )


def list_tables(folder: Path) -> list[TableFile]:
    """The files of a folder, damaged ones too, the last used first; none if it does not exist."""
    found = []
    for path in _files(folder):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # Cleared since.
        try:
            found.append(_describe(path, descriptor))
        finally:
            os.close(descriptor)
    return sorted(found, key=lambda table: -table.last_used)


def clear_tables(folder: Path, names: Collection[str] | None = None) -> list[TableFile]:
    """Deletes tables and files of maps: all of them, or those with the given file names.

    A process that has one open goes on with it; its disk space is freed when it ends.

    Returns:
        The deleted ones.

    Raises:
        UserError: there is no file of a given name.
    """
    tables = list_tables(folder)
    known = {table.path.name for table in tables}
    for name in names or ():
        if name not in known:
            raise unknown("teacher table", name, known)
    doomed = [table for table in tables if names is None or table.path.name in names]
    for table in doomed:
        table.path.unlink(missing_ok=True)
    if names is None:
        # What processes left that were killed while they made a table.
        for suffix in _SUFFIXES:
            for hidden in folder.glob(f".*{suffix}.*"):
                _unlink_hidden(hidden)
    return doomed


def check_room(path: Path, key: TableKey | MapKey, max_bytes: int) -> None:
    """Refuses a file that could not be filled.

    Args:
        path: of its file, which need not exist; the folder must.
        key: of what is in it.
        max_bytes: what all files of the folder together may take on the disk.

    Raises:
        TableUnavailable: so much is not allowed, or not free.
    """
    if not max_bytes:
        raise TableUnavailable(f"no {key.title}: KDSWEEP_CACHE_GB is 0")
    sizes = dict(_sizes(path.parent))
    missing = max(0, key.file_bytes - sizes.get(path.name, 0))
    held = sum(sizes.values())
    table = f"no {key.title}: it would take {missing / _GB:.3g} GB more"
    if missing and held + missing > max_bytes:
        raise TableUnavailable(
            f"{table}, and {held / _GB:.3g} of {max_bytes / _GB:.3g} GB (KDSWEEP_CACHE_GB) are "
            f"in use in {path.parent}"
        )
    disk = os.statvfs(path.parent)
    reserve = min(disk.f_blocks * disk.f_frsize // 20, _RESERVE)
    free = max(0, disk.f_bavail * disk.f_frsize - reserve)
    if missing > free:
        raise TableUnavailable(
            f"{table}, and {path.parent} has {free / _GB:.3g} GB free beyond a reserve of "
            f"{reserve / _GB:.3g} GB"
        )


def _files(folder: Path) -> Iterator[Path]:
    for suffix in _SUFFIXES:
        yield from folder.glob(f"*{suffix}")


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """What each file takes on the disk."""
    for file in _files(folder):
        with suppress(FileNotFoundError):
            yield file.name, 512 * file.stat().st_blocks


def _unlink_hidden(path: Path) -> None:
    """Deletes what is left over; not the lock of a process that computes."""
    if path.suffix != ".lock":
        path.unlink(missing_ok=True)
        return
    with suppress(Timeout), FileLock(path, timeout=0):
        path.unlink(missing_ok=True)


def _describe(path: Path, descriptor: int) -> TableFile:
    state = os.fstat(descriptor)
    key: TableKey | MapKey | None = None
    problem = None
    try:
        reading = map_file.read_key if path.suffix == map_file.SUFFIX else read_key
        key = reading(path, descriptor)
    except UserError as error:
        problem = str(error)
    return TableFile(path, key, problem, 512 * state.st_blocks, state.st_mtime)
