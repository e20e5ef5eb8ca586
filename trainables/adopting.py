"""A teacher from a sweep: its finished student teaches in the next study."""

from collections.abc import Callable
from dataclasses import replace

from trainables.models.weights import Card
from trainables.students import read_student
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
    card, network = read_student(results, sweep, trial_id)
    card = replace(card, name=name)
    folder = teacher_folder(results)
    there = same_teacher(folder, name, network, card, replacing=replacing)
    if there is not None:
        return there
    card, kept = file_teacher(folder, name, network, card)
    if kept is not None:
        say(f"the teacher that was called {name} is kept as {kept}")
    return card
