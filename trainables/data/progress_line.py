"""One line on stderr for work that takes long."""

import sys
import time


class ProgressLine:
    """Says how far work is that takes longer than two seconds.

    Args:
        label: what is done.
        total: how many there are.
    """

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
        """Says how many are done, where it is time to."""
        if time.monotonic() >= self._next:
            self._shown = True
            self._next = time.monotonic() + self._interval
            print(f"{self._label}: {done:,} of {self._total:,}", end=self._end, file=sys.stderr)

    def close(self) -> None:
        """Says that all is done, where it said anything."""
        if self._shown:
            print(f"{self._label}: {self._total:,} done{'':12}", file=sys.stderr)
