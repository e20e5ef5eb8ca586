"""How verbs that are about one trained network find it."""

import sys
from argparse import Namespace
from typing import Any

from trainables.errors import UserError


def say(text: str) -> None:
    """Says what takes long, beside what a program reads."""
    print(text, file=sys.stderr, flush=True)


def check_names(options: Namespace) -> None:
    """Refuses a command that names no network, or two, before anything is loaded.

    Raises:
        UserError: with what was expected.
    """
    named = options.sweep is not None and options.trial_id is not None
    if options.teacher is not None and options.sweep is not None:
        raise UserError(f"{options.verb}: expected SWEEP TRIAL_ID or --teacher NAME, got both")
    if options.teacher is None and not named:
        raise UserError(f"{options.verb}: expected SWEEP TRIAL_ID, or --teacher NAME")


def found(options: Namespace) -> tuple[Any, Any, str | None]:
    """The card and the network that are meant, and where its data set may be.

    Raises:
        UserError: no such sweep, trial or teacher; the trial has not completed; a damaged file.
    """
    from orchestrator.results.record import data_folder
    from orchestrator.results.store import Store
    from orchestrator.sweeps.sweep import absolute
    from trainables.students import read_student, read_teacher

    results = absolute(options.results)
    if options.teacher is not None:
        return *read_teacher(results, options.teacher), options.data
    noted = data_folder(Store(results, options.sweep))  # there is such a sweep
    card, network = read_student(results, options.sweep, options.trial_id)
    return card, network, options.data or noted
