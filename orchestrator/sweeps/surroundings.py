"""What a process takes from the user's environment, and what not by accident.

Read before torch, Ray or anything else that looks at the environment when it is imported.
"""

import contextlib
import errno
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "search_spaces", "trainables")

COUNTS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables by which libraries choose their number of threads."""

PINNING = (
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_HW_SUBSET",
    "MKL_DYNAMIC",
    "MKL_DOMAIN_NUM_THREADS",
)
"""Variables meant for one program that has the whole machine: they would put all workers, who
are started by one process, on the same core."""

SLOW = ("PYTHONOPTIMIZE", "PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE")
"""Variables that make every process which Ray starts compile or report all that it imports."""

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)


def settle() -> str:
    """Makes this process, and what it starts, independent of accidents of the environment.

    Threads come from the plan alone; nothing is imported from the working folder; a stream that
    is closed swallows what is written; letters that the terminal does not know are escaped;
    SIGTERM and SIGHUP end a verb as Ctrl-C does.

    Returns:
        What makes it impossible to go on: the working folder was deleted, and libraries that look
        for it would end the process. Empty where all is well.
    """
    _fill_streams()
    for stream in (sys.stdout, sys.stderr):
        # Escaped and not replaced by "?": what a file gets must not be wrong in silence.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for name in (*COUNTS, *PINNING, *SLOW):
        os.environ.pop(name, None)
    if not _folder_exists():
        return "the working folder is not there any more; change to one that is"
    leave_the_working_folder()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    # Libraries warn of what is old; a warning turned into an exception breaks them.
    warnings.filters[:] = [rule for rule in warnings.filters if rule[0] != "error"]  # type: ignore[index]
    if "error" in os.environ.get("PYTHONWARNINGS", ""):
        del os.environ["PYTHONWARNINGS"]
    return ""


def thread_counts(cpus: float) -> dict[str, str]:
    """The environment of a worker that computes with so many threads, wherever they may run."""
    count = str(max(1, int(cpus)))
    return dict.fromkeys(COUNTS, count) | {"OMP_PROC_BIND": "false", "OMP_DYNAMIC": "false"}


def cores() -> int:
    """The cores that this process may use: a batch system grants fewer than the machine has."""
    counted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return counted or 1


def leave_the_working_folder() -> None:
    """Imports nothing from the working folder and the script's, where any ``numpy.py`` may lie.

    As ``python -P`` does it, for the processes that this one starts as well. Our own packages,
    which may lie there, are all found where this one was.
    """
    if not sys.flags.safe_path and sys.path and _is_here(sys.path[0]):
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if "" in given:  # as ``PYTHONPATH=$PYTHONPATH:/x`` leaves it; Python reads: the working folder
        kept = [path for path in given if path]
        here = os.path.abspath(os.curdir) if _folder_exists() else ""
        if here in sys.path and here not in map(os.path.abspath, kept):
            sys.path.remove(here)
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    sys.path.insert(0, str(ROOT))
    for name in PACKAGES:
        importlib.import_module(name)
    del sys.path[0]


def _is_here(path: str) -> bool:
    if not path:
        return True
    script = os.path.dirname(os.path.realpath(sys.argv[0])) if sys.argv[0] else ""
    return path == script or (_folder_exists() and os.path.realpath(path) == os.getcwd())


def _folder_exists() -> bool:
    """Whether the working folder is still there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def paths_of_workers() -> list[str]:
    """Where workers find our packages, if another installation would come before ours."""
    for finder in sys.meta_path:
        spec = finder.find_spec("orchestrator", None)
        if spec is not None and spec.origin is not None:
            same = Path(spec.origin).resolve().parents[1] == ROOT
            return [] if same else [str(ROOT)]
    return [str(ROOT)]


def _fill_streams() -> None:
    """Opens the standard streams that are closed, or the next file would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "w" if number else "r", closefd=False)
            setattr(sys, name, stream)


class Steadfast:
    """A stream for a process that goes on when nobody listens any more.

    A pipe may be closed, a terminal hang up, the disk of a log be full. The first time that
    happens, one line on stderr says so. What nobody will ever read is dropped, and what is
    printed later on the stream itself goes to stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = self._noted = False

    def write(self, text: str) -> int:
        """Writes what can be written."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes what can be written."""
        self._try(self._stream.flush)

    def _try(self, work: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            work()
        except (OSError, ValueError) as error:
            # A full disk may have space again, a reader that has gone does not come back.
            self._lost = getattr(error, "errno", None) in (None, *_GONE)
            if self._lost:
                silence(self._stream)
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(sys.stderr.fileno(), self._stream.fileno())
            if not self._noted:
                self._noted = True
                say(f"kdsweep: what is shown here is lost ({error}); the work goes on")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line on a stream, at once; where that fails, on stderr; else nowhere."""
    for target in (stream, sys.stderr):
        if target is None:
            continue
        try:
            print(text, file=target, flush=True)
        except (OSError, ValueError):
            silence(target)
        else:
            return


def silence(stream: TextIO) -> None:
    """Lets a stream that fails swallow the rest, so that Python's end does not fail on it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
