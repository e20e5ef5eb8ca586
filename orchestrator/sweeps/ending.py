"""How the process of a sweep ends before the sweep does: in order, in time, with a last line."""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.sweeps.surroundings import say

log = logging.getLogger(__name__)

GRACE_SECONDS = 7.0
"""After a signal. What has not ended by then is left behind: batch systems kill after 30 s, some
people after 10."""

LOCK_SECONDS = 1.0
LAST_SECONDS = 2.0

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""What terminals, people and batch systems send to end a process, or to announce its end."""


class Ending:
    """Sees to it that a sweep's process ends in order, whatever ends it.

    The first of `SIGNALS` raises KeyboardInterrupt in the main thread. A thread beside it, which
    hears signals even while the main thread waits for Ray, ends the process `GRACE_SECONDS`
    later, or at the second signal. Either way rows are written and the line is said before.

    A signal that is ignored at the start, as ``nohup`` and shells do it, stays so.

    Args:
        sweep: to name in the last line.

    Attributes:
        interrupted: whether a signal came.
    """

    def __init__(self, sweep: str) -> None:
        self._sweep = sweep
        self.interrupted = False
        self._kept: list[Callable[[], Any]] = []
        self._said = False
        self._lock = threading.Lock()
        self._shields = 0
        self._before: dict[signal.Signals, Any] = {}
        self._hear, self._tell = os.pipe()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ending", daemon=True)

    def __enter__(self) -> "Ending":
        os.set_blocking(self._tell, False)
        self._wakeup = signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        self._before = {
            number: before
            for number in SIGNALS
            if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None)
        }
        self.listen()
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lost
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit):
            self.leave()
        self._over.set()
        signal.set_wakeup_fd(self._wakeup)
        # A process that was forked meanwhile may hold the pipe open: its end alone wakes nobody.
        with contextlib.suppress(OSError):
            os.write(self._tell, b"\0")
        os.close(self._tell)
        self._thread.join()
        os.close(self._hear)
        for number, before in self._before.items():
            signal.signal(number, before)
        sys.unraisablehook = self._unraisable

    def listen(self) -> None:
        """Hears the signals; again after Ray, which sets a handler of its own when it starts."""
        for number in self._before:
            signal.signal(number, self._heard)

    def keeps(self, *work: Callable[[], Any]) -> None:
        """What has to be done before the process may go; done again, it does no harm."""
        self._kept += work

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Work that a signal does not cut in two: it ends the process behind the block."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self.check()

    def check(self) -> None:
        """Ends here what a signal that got lost in somebody else's code should have ended.

        Raises:
            KeyboardInterrupt: there was a signal.
        """
        if self.interrupted and not self._said and not self._shields:
            raise KeyboardInterrupt

    def end(self, why: str) -> None:
        """Ends the process, from any thread, as a signal would: for a reason that is said first."""
        say(f"kdsweep: {why}; the sweep ends", sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    def leave(self, why: str = "") -> None:
        """Writes what is to be kept and says, once, how the sweep goes on.

        Args:
            why: something went wrong, which is said on stderr; empty after a signal.
        """
        self._shields += 1
        try:
            self._leave(why)
        finally:
            self._shields -= 1

    def _leave(self, why: str) -> None:
        # Whoever waits here in vain finds the other thread at a store that does not answer.
        free = self._lock.acquire(timeout=LOCK_SECONDS)
        if free and not self._said:
            for work in self._kept:
                try:
                    work()
                except Exception as error:
                    log.error("not everything could be written: %s", error)
        if not self._said:
            self._said = True
            line = f"{why or 'interrupted'}; go on with `kdsweep resume {self._sweep}`"
            say(f"kdsweep: {line}" if why else line, sys.stderr if why else sys.stdout)
        if free:
            self._lock.release()

    def _heard(self, number: int, frame: Any) -> None:
        first, self.interrupted = not self.interrupted, True
        if first and not self._shields:
            raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        """Our exception came up where none can be raised, as in the callback of a weak reference
        while something is imported. `check` and the other thread know; nobody else needs to."""
        if not (self.interrupted and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            self._unraisable(unraisable)

    def _watch(self) -> None:
        """Waits for signals; ends the process when its time is over."""
        heard, deadline = 0, float("inf")
        while True:
            patience = min(max(0.0, deadline - time.monotonic()), 3600.0)
            if select.select([self._hear], [], [], patience)[0]:
                numbers = os.read(self._hear, 4096)
                if self._over.is_set() or not numbers:
                    return
                heard += sum(number in SIGNALS for number in numbers)
                if heard == 1:
                    deadline = time.monotonic() + GRACE_SECONDS
            if heard > 1 or time.monotonic() >= deadline:
                break
        # Whatever hangs there: a store that does not answer, a terminal that takes nothing.
        last = threading.Timer(LAST_SECONDS, os._exit, [1])
        last.daemon = True
        last.start()
        self.leave()
        kill(descendants(os.getpid()))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)


def descendants(pid: int) -> list[int]:
    """Children, grandchildren, ... of a process; none where there is no ``/proc``."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def kill(pids: list[int]) -> None:
    """Ends processes that may have ended already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
