"""Signals to a process at work: it keeps what is to be kept, says how to go on, and ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import contextlib, ctypes, os, signal, sys, threading, time
from orchestrator.sweeps import ending
from orchestrator.sweeps.ending import Ending

def note(text):
    with contextlib.suppress(OSError):
        print(text, flush=True)

{before}
with Ending("s") as end:
    end.keeps(lambda: note("kept"), {more})
    try:
        note("at work")
        {work}
    except KeyboardInterrupt:
        note("raised")
        end.leave()
        {after}
        sys.exit(1)
    note("went on")
"""

WAIT = "time.sleep(60)"
STUCK = "ctypes.CDLL(None).system(b'sleep 61')"  # waits in C, whatever signal comes
LINE = "interrupted; go on with `kdsweep resume s`"


class Program:
    """A process at work."""

    def __init__(self, work=WAIT, before="", more="", after="pass", **options):
        text = PROGRAM.format(work=work, before=before, more=more, after=after)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        self.process = subprocess.Popen(
            [sys.executable, "-c", text],
            start_new_session=True,
            # The tests themselves may run under `nohup`.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            **streams,
        )
        if "stdout" not in options:
            # Byte by byte: what a buffer has read ahead is lost to `communicate`.
            begun = b"".join(iter(lambda: os.read(self.process.stdout.fileno(), 1), b"\n"))
            assert begun == b"at work"

    def send(self, number):
        self.sent = time.monotonic()
        os.killpg(self.process.pid, number)

    def end(self):
        out, err = self.process.communicate(timeout=60)
        self.seconds = time.monotonic() - self.sent
        return self.process.returncode, (out or "").splitlines(), err.splitlines()


@pytest.mark.parametrize("number", ["INT", "TERM", "HUP", "QUIT", "XCPU", "USR1", "USR2"])
def test_any_signal_that_ends_or_announces_the_end(number):
    program = Program()
    program.send(getattr(signal, f"SIG{number}"))
    assert program.end() == (1, ["raised", "kept", LINE], [])


def test_a_signal_that_got_lost_makes_no_noise():
    """It came where Python can raise nothing; who looks for it ends in order all the same."""
    program = Program(
        before="class Deaf:\n    def __del__(self): time.sleep(2)",
        work="Deaf(); end.check()",
    )
    time.sleep(0.5)
    program.send(signal.SIGTERM)
    assert program.end() == (1, ["raised", "kept", LINE], [])


def test_what_else_cannot_be_raised_is_shown():
    work = "class Broken:\n            def __del__(self): raise ValueError('of theirs')\n"
    program = Program(work=work + "        Broken(); time.sleep(60)")
    time.sleep(0.5)
    program.send(signal.SIGTERM)
    code, out, err = program.end()
    assert (code, out) == (1, ["raised", "kept", LINE])
    assert err[-1] == "ValueError: of theirs"


def test_what_is_ignored_at_the_start_stays_ignored():
    """As `nohup` and a shell's background jobs have it."""
    program = Program(before="signal.signal(signal.SIGHUP, signal.SIG_IGN)", work="time.sleep(1)")
    program.send(signal.SIGHUP)
    assert program.end() == (0, ["went on"], [])


def test_stopped_and_continued_it_goes_on():
    program = Program(work="time.sleep(1)")
    program.send(signal.SIGTSTP)
    program.send(signal.SIGCONT)
    assert program.end() == (0, ["went on"], [])


def test_the_second_signal_ends_at_once_what_hangs():
    program = Program(after="time.sleep(60)")
    program.send(signal.SIGINT)
    assert [program.process.stdout.readline() for _ in range(3)][2] == LINE + "\n"
    program.send(signal.SIGINT)
    assert program.end() == (1, [], [])
    assert program.seconds < 3


def test_time_runs_out_for_a_main_thread_that_hears_nothing(tmp_path):
    """It waits in C; what it started ends with it."""
    program = Program(STUCK, before="ending.GRACE_SECONDS = 0.5")
    limit = time.monotonic() + 30
    while b"sleep\x0061\x00" not in commands():  # until then it hears
        assert time.monotonic() < limit
        time.sleep(0.02)
    program.sent = time.monotonic()
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == (1, ["kept", LINE], [])
    assert program.seconds < 4
    assert b"sleep\x0061\x00" not in commands()


def commands():
    """The command lines of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found.append(file.read_bytes())
    return found


def test_what_is_to_be_kept_cannot_hold_up_the_end():
    program = Program(before="ending.GRACE_SECONDS = 0.5", more="lambda: time.sleep(60)")
    program.send(signal.SIGTERM)
    code, out, _ = program.end()
    assert (code, out[-1]) == (1, LINE)
    assert program.seconds < 5


def test_work_under_a_shield_is_not_cut_in_two():
    work = "\n        ".join(
        [
            "with end.shielded():",
            "    note('begun')",
            "    time.sleep(1)",
            "    note('done')",
        ]
    )
    program = Program(work)
    assert program.process.stdout.readline() == "begun\n"
    program.send(signal.SIGTERM)
    assert program.end() == (1, ["done", "raised", "kept", LINE], [])


def test_a_reason_of_our_own_is_said_first():
    program = Program("threading.Timer(0.1, end.end, ['it is gone']).start(); time.sleep(60)")
    program.sent = time.monotonic()
    said = "kdsweep: it is gone; the sweep ends"
    assert program.end() == (1, ["raised", "kept", LINE], [said])


def test_before_an_error_it_is_said_on_stderr():
    program = Program("end.leave('it broke'); 1 / 0")
    program.sent = time.monotonic()
    code, out, err = program.end()
    assert (code, out) == (1, ["kept"])
    assert err[0] == "kdsweep: it broke; go on with `kdsweep resume s`"
    assert err[-1] == "ZeroDivisionError: division by zero"


def test_the_line_is_said_on_stderr_where_nobody_reads_stdout():
    reader, writer = os.pipe()
    program = Program(stdout=writer)
    os.close(writer)
    # Text and line end may come apart.
    assert b"".join(iter(lambda: os.read(reader, 1), b"\n")) == b"at work"
    os.close(reader)
    program.send(signal.SIGTERM)
    assert program.end() == (1, [], [LINE])
