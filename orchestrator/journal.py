"""Optuna's journal file beside the results, wherever those are."""

import json
import os
import time
from pathlib import Path

from trainables.files import Folder

NAME = "optuna.journal"
KEEP_SECONDS = 10.0


class Journal:
    """The journal of a sweep as a local file.

    In a local results folder it is simply ``optuna.journal`` there. A bucket has no files that
    can be appended to: the journal then grows in the cache and is copied to the bucket.

    Args:
        folder: of the sweep; its lock must be held.

    Attributes:
        path: the local file. A last line that a killed writer left half written is cut off:
            Optuna would read no further, and append behind it.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._kept = time.monotonic()
        if folder.is_local:
            self.path = Path(folder.path) / NAME
        else:
            cache = Path(os.environ.get("KDSWEEP_CACHE", "~/.cache/kdsweep")).expanduser()
            self.path = cache / "journals" / folder.path.replace("/", "_") / NAME
            copy = folder.read(NAME) if folder.exists(NAME) else b""
            # The longer one is the newer one: a journal only grows.
            if not self.path.exists() or len(copy) > self.path.stat().st_size:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes(copy)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _mend(self.path)

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
