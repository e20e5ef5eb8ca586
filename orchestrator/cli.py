"""The command line: runs a verb, and says in one line what went wrong."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Sequence

DEBUG = "KDSWEEP_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb. Returns the exit code: 0, 1 after an interruption or a failure, 2 for a
    mistake. What the user can mend is one line; with ``--debug``, or `DEBUG` in the
    environment, all of it."""
    if arguments is not None:  # a test or a notebook, and not the program itself
        return _run(arguments)
    # Before anything else is imported.
    from orchestrator.sweeps.surroundings import say, settle

    if problem := settle():
        say(f"kdsweep: {problem}", sys.stderr)
        return 2
    code = _run(None)
    _leave(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    from orchestrator.commands.parser import parse
    from orchestrator.sweeps.surroundings import say, silence

    options = parse(arguments)

    try:
        from orchestrator.commands import verbs

        code: int = getattr(verbs, options.verb)(options)
        code = code if _flushed() else 1
        if code == 1 and arguments is None:
            # Behind Ray, Python's own tidying up takes seconds, which a batch system may not give.
            os._exit(code)
        return code
    except KeyboardInterrupt:
        sweep = getattr(options, "sweep", None) if options.verb in ("resume", "confirm") else None
        hint = f"; go on with `kdsweep {options.verb} {sweep}`" if sweep else ""
        say(f"kdsweep: interrupted{hint}", sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as head, has seen enough
        silence(sys.stdout)
        return 0
    except Exception as error:
        return _told(error, getattr(options, "debug", False) or bool(os.environ.get(DEBUG)))


def _leave(code: int) -> None:
    """Ends the process here if nothing is left to do but to take torch apart, object by object,
    which takes half as long as its import. What was registered for the end is done."""
    if "ray" in sys.modules or threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        code = code if _flushed() else code or 1
        sys.stderr.flush()
    os._exit(code)


def _told(error: Exception, debug: bool) -> int:
    """Says what went wrong, in a line where that is enough. Returns the exit code."""
    import traceback

    from orchestrator.sweeps.surroundings import say
    from trainables.errors import TrainingFailed, UserError

    known = isinstance(error, UserError | TrainingFailed | OSError)
    if debug or not known:
        traceback.print_exc()
    text = next(iter(str(error).splitlines()), type(error).__name__)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"  # a disk, a right, a bucket out of reach
    if not known:
        text = f"a fault of kdsweep itself ({type(error).__name__}); please report the lines above"
    say(f"kdsweep: {text}", sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def _flushed() -> bool:
    """Whether all that was printed has arrived."""
    from orchestrator.sweeps.surroundings import say, silence

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        say(f"kdsweep: the output cannot be written: {error.strerror}", sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
