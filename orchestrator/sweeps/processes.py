"""Ray's processes on this machine: how they start, how they end, and that they are there."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.sweeps.address import answers
from orchestrator.sweeps.ending import SIGNALS, descendants, kill

POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0
HEAD_SECONDS = 30.0


_END_ALL = """
read -r _
logs=$1; shift
for p in "$@"; do grep -qsE 'ray|gcs' "/proc/$p/cmdline" && kill -9 "$p"; done
for again in 1 2 3; do
  for p in /proc/[0-9]*; do
    case $(readlink "$p/fd/1" 2>/dev/null) in "$logs"/*) kill -9 "${p#/proc/}" ;; esac
  done
  sleep 1
done
"""
"""A worker's command line and environment are not what they were: Ray has written over them."""

_deaf = False


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started in this block do not hear `SIGNALS`.

    Batch systems send SIGTERM to every process of a job, terminals SIGINT and SIGHUP to a group.
    Were Ray's processes to hear it, they would be gone before this one has ended in order. They
    end with it: the kernel kills them when their parent dies, and it kills them itself.
    """
    global _deaf
    _deaf = True
    try:
        yield
    finally:
        _deaf = False


def _go_deaf() -> None:
    if _deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


os.register_at_fork(after_in_child=_go_deaf)


@contextmanager
def survived_by_none() -> Iterator[None]:
    """Ends Ray's processes if this one is killed in this block.

    Its head and its node are ended by the kernel. Its agents would wait for minutes to report
    that to the head, and so may a worker that has just started and is given nothing yet. A shell
    that hears this process end ends them all: those that are there now, and whatever writes to
    the logs of this session.
    """
    node = _node()
    known = [info.process.pid for found in node.all_processes.values() for info in found]
    pids = [str(pid) for one in known for pid in (one, *descendants(one))]
    with deaf_children():
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _END_ALL, "sh", os.path.realpath(node.get_logs_dir_path()), *pids],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_go_deaf,
            start_new_session=True,  # who kills the group does not kill it
        )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def end_at_once() -> None:
    """Spares the second that Ray gives each of its processes to hear a SIGTERM: they are deaf.

    What they have started ends with them; some of it would wait for a minute for the dead head.
    """
    node = _node()
    if node is None or not node.is_head():
        return
    kill_all = node.kill_all_processes

    def at_once(**_: Any) -> None:
        known = [info.process.pid for found in node.all_processes.values() for info in found]
        left = [pid for one in known for pid in descendants(one)]
        kill_all(check_alive=False, wait=True)
        kill(left)

    node.kill_all_processes = at_once


def _node() -> Any:
    """Ray's own view of this machine; None where Ray keeps it elsewhere."""
    from ray._private import worker

    return getattr(worker, "_global_node", None)


@contextmanager
def watched(lost: Callable[[str], None]) -> Iterator[None]:
    """Tells from a thread when Ray is gone, for the length of a block.

    Ray's own client waits for a head for a minute, and then ends the process without a word; for
    the processes of this machine it waits for ever.

    Args:
        lost: is told once, in words.
    """
    node, over = _node(), threading.Event()
    gone = _own_gone if node is not None and node.is_head() else _joined_gone()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if what := gone():
                lost(f"Ray's {what} is gone")
                return

    threading.Thread(target=watch, name="head", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _own_gone() -> str:
    """Which of the processes that make our own cluster has ended; empty while both run."""
    for kind, name in (("gcs_server", "head"), ("raylet", "node")):
        for info in list(getattr(_node(), "all_processes", {}).get(kind, [])):
            if info.process.poll() is not None:
                return f"{name} (process {info.process.pid})"
    return ""


def _joined_gone() -> Callable[[], str]:
    """The same for somebody else's cluster, whose head may be started again meanwhile."""
    import ray

    head = ray.get_runtime_context().gcs_address
    seen = looked = time.monotonic()

    def gone() -> str:
        nonlocal seen, looked
        now = time.monotonic()
        if now - looked > LOOK_SECONDS:
            looked = now
            seen = now if answers(head) else seen
        return f"head at {head}" if looked - seen > HEAD_SECONDS else ""

    return gone
