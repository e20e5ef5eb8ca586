"""Verbs of the command line in this process: what only reads need not start another."""

import contextlib
import io

from orchestrator.cli import main


def said(*arguments: str) -> str:
    """What a verb prints; it must succeed, and have nothing to say on stderr."""
    out, err = shown(*arguments)
    assert err == "", err + out
    return out


def shown(*arguments: str) -> tuple[str, str]:
    """What a verb prints on stdout and on stderr; it must succeed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    assert code == 0, err.getvalue() + out.getvalue()
    return out.getvalue(), err.getvalue()
