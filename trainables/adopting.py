"""A teacher from a sweep: its finished student teaches in the next study."""

from collections.abc import Callable
from dataclasses import replace

from trainables.errors import UserError, unknown
from trainables.files import open_folder
from trainables.job import STUDENT, trial_folder
from trainables.models.weights import Card, read_network
from trainables.teachers.filing import file_teacher, same_teacher
from trainables.teachers.teacher import check_name, teacher_folder


def adopt_student(
    results: str,
    sweep: str,
    trial_id: str,
    name: str | None = None,
    *,
    replacing: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Card:
    """Files the student of a finished trial among the teachers of its results folder.

    Args:
        results: folder or URI.
        sweep, trial_id: whose student.
        name: under which studies refer to it (``teacher: {name: ...}``); the trial's by default.
        replacing: whether it may take the name of another teacher, which is then kept under
            another one.
        say: gets a line where that happened.

    Returns:
        The card.

    Raises:
        UserError: no such trial, it has not finished, or its file is damaged; another teacher
            has the name, or it is no name for a file.
    """
    name = name or trial_id
    check_name(name)
    known = (open_folder(results) / sweep / "checkpoints").folders()
    if trial_id not in known:
        raise unknown("trial", trial_id, known)
    if not trial_folder(results, sweep, trial_id).exists(STUDENT):
        raise UserError(f"trial '{trial_id}' has no student: it has not completed")
    card, network = read_network(trial_folder(results, sweep, trial_id), STUDENT)
    card = replace(card, name=name)
    folder = teacher_folder(results)
    there = same_teacher(folder, name, network, card, replacing=replacing)
    if there is not None:
        return there
    card, kept = file_teacher(folder, name, network, card)
    if kept is not None:
        say(f"the teacher that was called {name} is kept as {kept}")
    return card
