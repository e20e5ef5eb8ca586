"""What a new sweep may be called."""

import itertools

from orchestrator.results.store import Store
from trainables.errors import UserError
from trainables.files import open_folder
from trainables.teacher_training import TEACHERS

MAX_NAME = 100
"""Letters of a sweep's name: its trials' files have longer names."""


def check_free(results: str, name: str) -> None:
    """Refuses a name that no new sweep can have.

    Raises:
        UserError: it is no name for a folder, or something in the results folder has it.
    """
    if len(name) > MAX_NAME:
        raise UserError(
            f"sweep name '{name[:40]}...' has {len(name)} characters; expected at most {MAX_NAME}: "
            "give a shorter one with --name"
        )
    folder = Store(results, name).folder
    if name == TEACHERS:
        raise UserError(f"--name {name}: the teachers are kept in that folder; choose another name")
    if name in Store.sweeps(results):
        raise UserError(
            f"--name {name}: there is such a sweep in {results}; "
            f"go on with it by `kdsweep resume {name}`, or choose another name"
        )
    if name in open_folder(results).names() or folder.names() or folder.folders():
        raise UserError(
            f"--name {name}: {folder} is there already and is no sweep; choose another name"
        )


def free_name(results: str, wanted: str) -> str:
    """``digits``, ``digits-2``, ...: the first that nothing in the results folder has."""
    folder = open_folder(results)
    taken = {*folder.names(), *folder.folders(), TEACHERS}
    numbered = (f"{wanted}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)
