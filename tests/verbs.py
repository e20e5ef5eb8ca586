"""Verbs of the command line that read, without a process of their own."""

import contextlib
import io

from orchestrator.cli import main


def said(*arguments: str) -> str:
    """What a verb prints, called in this process; it must succeed and complain of nothing."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main([*arguments])
    assert (code, err.getvalue()) == (0, "")
    return out.getvalue()
