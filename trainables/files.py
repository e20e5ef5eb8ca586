"""Folders of results: on a local disk or in any bucket that pyarrow's filesystems open.

A file appears whole or not at all. On a disk it is written under a hidden name, synced and
renamed; an object store publishes one put at once. Readers never list hidden names, nor objects
without a byte: those are what some stores show of an upload under way, or of one that broke off.
"""

import contextlib
import errno
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowException, fs

from trainables.errors import UserError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Stores where an object becomes visible only when its upload ends; others need a rename.
_ATOMIC_PUT = {"s3", "gcs", "abfs"}
# Google's client tries again for a quarter of an hour, and hears no signal meanwhile.
_PATIENCE = "retry_limit_seconds"
_PATIENCE_SECONDS = 15
# How filesystems say that they do not sync folders.
_REFUSALS = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EBADF,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
}


@dataclass(frozen=True)
class Folder:
    """A folder of a filesystem. It can be pickled, so that workers write through it too.

    Attributes:
        filesystem: the pyarrow filesystem.
        path: path inside that filesystem, without a trailing slash.
        is_local: whether ``path`` is a path of this machine's disk.
    """

    filesystem: fs.FileSystem
    path: str
    is_local: bool

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}", self.is_local)

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.filesystem.type_name}://{self.path}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically and durably, over an older one of that name.

        Raises:
            OSError: the disk is full, the store is unreachable; an older file is still whole.
        """
        if self.is_local:
            _write_local(Path(self.path) / name, data)
        elif self.filesystem.type_name in _ATOMIC_PUT:
            self._put(name, data)
        else:
            self.filesystem.create_dir(self.path, recursive=True)
            hidden = f".{name}.{uuid.uuid4().hex}"
            self._put(hidden, data)
            self.filesystem.move(f"{self.path}/{hidden}", f"{self.path}/{name}")

    def _put(self, name: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(data)

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the store is unreachable.
        """
        with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
            return bytes(stream.read())

    def exists(self, name: str) -> bool:
        """Whether a file or a folder of this name is there."""
        info = self.filesystem.get_file_info(f"{self.path}/{name}")
        return bool(info.type != fs.FileType.NotFound) and not self._is_unfinished(info)

    def modified(self, name: str) -> float:
        """When a file was last written, in seconds since 1970; 0 where the store does not say."""
        info = self.filesystem.get_file_info(f"{self.path}/{name}")
        return (info.mtime_ns or 0) / 1e9

    def names(self, suffix: str = "") -> list[str]:
        """Sorted names of the visible files that end in ``suffix``; none if there is no folder."""
        return [name for name in self._list(fs.FileType.File) if name.endswith(suffix)]

    def folders(self) -> list[str]:
        """Sorted names of the visible folders in this one; none if it does not exist."""
        return self._list(fs.FileType.Directory)

    def _list(self, kind: fs.FileType) -> list[str]:
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        names = (i.base_name for i in infos if i.type == kind and not self._is_unfinished(i))
        return sorted(name for name in names if not name.startswith("."))

    def _is_unfinished(self, info: fs.FileInfo) -> bool:
        """Whether a store shows an upload that has not ended. Nothing empty is ever written."""
        return not self.is_local and info.type == fs.FileType.File and info.size == 0

    def delete(self, name: str) -> None:
        """Delete a file; it is no error if it is gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def check_writable(self) -> None:
        """Write and remove a probe file, since permission bits tell little about a mount.

        Folders that are missing are made for the probe, and removed with it.

        Raises:
            UserError: the probe cannot be written or removed.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        path = Path(self.path)
        missing = [p for p in (path, *path.parents) if self.is_local and not p.exists()]
        try:
            self.write(probe, b"kdsweep")
            self.delete(probe)
            for folder in missing:
                folder.rmdir()
        except OSError as error:
            raise UserError(f"results folder '{self}' is not writable: {_line(error)}") from error


def open_folder(where: "str | Path | Folder") -> Folder:
    """The folder at a local path or a URI (``s3://bucket/x``, ``gs://``, ``abfs://``, ...).

    The folder need not exist: the first write makes it.

    Raises:
        UserError: the URI cannot be opened, or the path is a file.
    """
    if isinstance(where, Folder):
        return where
    if _URI.match(str(where)):
        return _open_uri(str(where))
    path = os.path.abspath(os.path.expanduser(where))
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"--results '{where}' is a file; expected a folder or a URI")
    return Folder(fs.LocalFileSystem(), path, is_local=True)


def _open_uri(uri: str) -> Folder:
    limited = uri
    if uri.startswith(("gs://", "gcs://")) and _PATIENCE not in uri:
        limited += f"{'&' if '?' in uri else '?'}{_PATIENCE}={_PATIENCE_SECONDS}"
    try:
        filesystem, path = fs.FileSystem.from_uri(limited)
    except (ArrowException, OSError) as error:
        raise UserError(
            f"--results '{uri}' cannot be opened: {_line(error)}; expected a local folder or a URI "
            "such as s3://bucket/folder"
        ) from error
    return Folder(filesystem, path.rstrip("/"), isinstance(filesystem, fs.LocalFileSystem))


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(hidden, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except BaseException:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make a rename survive a power cut, where the filesystem lets a folder be synced.

    Some network and FUSE mounts refuse to; the file itself is synced and in its place. That a
    disk fails is not refused, but said.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise


def _line(error: BaseException) -> str:
    """The first line of an error: pyarrow lists every library it tried below it."""
    return str(error).partition("\n")[0]
