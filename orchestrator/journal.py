"""Optuna's journal file beside the results, wherever those are."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from trainables.files import Folder

log = logging.getLogger(__name__)

NAME = "optuna.journal"
KEEP_SECONDS = 10.0
LOCK_SECONDS = 5
"""After which the lock of a writer that was killed is broken."""


class Journal:
    """The journal of a sweep as a local file.

    In a local results folder it is simply ``optuna.journal`` there. A bucket has no files that
    can be appended to: the journal then grows in the cache and is copied to the bucket.

    Args:
        folder: of the sweep; its lock must be held.
        new: whether the sweep begins: what an earlier one of its name left is dropped.
        retry_seconds: pause before an entry that could not be written is tried again.

    Attributes:
        path: the local file. A last line that a killed writer left half written is cut off:
            Optuna would read no further, and append behind it.
    """

    def __init__(self, folder: Folder, *, new: bool = False, retry_seconds: float = 5.0) -> None:
        self._folder, self._retry_seconds = folder, retry_seconds
        self._kept = time.monotonic()
        if folder.is_local:
            self.path = Path(folder.path) / NAME
        else:
            cache = Path(os.environ.get("KDSWEEP_CACHE", "~/.cache/kdsweep")).expanduser()
            self.path = cache / "journals" / str(folder).replace("/", "_") / NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if new:
            folder.delete(NAME)
            self.path.unlink(missing_ok=True)
        elif not folder.is_local:
            copy = folder.read(NAME) if folder.exists(NAME) else b""
            # The longer one is the newer one: a journal only grows.
            if not self.path.exists() or len(copy) > self.path.stat().st_size:
                self.path.write_bytes(copy)
        _mend(self.path)

    def storage(self) -> JournalStorage:
        """Optuna's view of the journal."""
        return JournalStorage(_PatientBackend(self.path, self._retry_seconds))

    def keep(self, *, now: bool = False) -> None:
        """Copies the journal to the bucket, if there is one and the last copy is old.

        Raises:
            OSError: only with ``now``: it could not be copied.
        """
        if self._folder.is_local or (time.monotonic() - self._kept < KEEP_SECONDS and not now):
            return
        self._kept = time.monotonic()
        try:
            self._folder.write(NAME, self.path.read_bytes())
        except OSError:
            if now:
                raise


class _PatientBackend(JournalFileBackend):
    """Waits where the disk is full, and leaves no torn line behind.

    Optuna itself would raise, which ends the sweep, and would later append to half a line,
    which loses the journal.
    """

    def __init__(self, path: Path, retry_seconds: float) -> None:
        lock = JournalFileOpenLock(str(path), grace_period=LOCK_SECONDS)
        super().__init__(str(path), lock_obj=lock)
        self._path, self._retry_seconds = path, retry_seconds

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = self._path.stat().st_size
        waiting = False
        while True:
            try:
                super().append_logs(logs)
                break
            except OSError as error:
                os.truncate(self._path, size)
                if not waiting:
                    log.error("%s cannot be written (%s); the sweep waits", self._path, error)
                waiting = True
                time.sleep(self._retry_seconds)
        if waiting:
            log.warning("%s can be written again; nothing was lost", self._path)


def _mend(path: Path) -> None:
    data = path.read_bytes() if path.exists() else b""
    keep = data.rfind(b"\n") + 1
    while keep:
        start = data.rfind(b"\n", 0, keep - 1) + 1
        if _is_json(data[start:keep]):
            break
        keep = start
    if keep < len(data):
        with path.open("r+b") as file:
            file.truncate(keep)
            os.fsync(file.fileno())


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
