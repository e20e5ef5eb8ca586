"""Optuna's journal: what ``optuna-dashboard`` opens. It is written, and never read back."""

import json
import logging
import time
from collections.abc import Iterable
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from trainables.files import Folder

log = logging.getLogger(__name__)

NAME = "optuna.journal"
KEEP_SECONDS = 10.0


class Journal(BaseJournalBackend):
    """The log of an Optuna study in memory, and a copy of it in a file now and then.

    The store is what a sweep goes on from. Its file is therefore written anew by every run,
    whatever was there, and where it cannot be written that is said once and decides nothing.

    Args:
        folder: of the sweep; gets ``optuna.journal``.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lines: list[bytes] = []
        self._kept = time.monotonic()
        self._failing = False

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lines += [json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in logs]
        if time.monotonic() - self._kept >= KEEP_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Writes the file."""
        self._kept = time.monotonic()
        try:
            self._folder.write(NAME, b"".join(self._lines))
        except OSError as error:
            if not self._failing:
                log.warning(
                    "%s/%s cannot be written (%s): optuna-dashboard shows what was there before; "
                    "the sweep does not need it",
                    *(self._folder, NAME, error),
                )
            self._failing = True
