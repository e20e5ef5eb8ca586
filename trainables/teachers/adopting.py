"""A teacher from a sweep: its finished student teaches in the next study."""

from dataclasses import replace

from trainables.errors import UserError, unknown
from trainables.files import open_folder
from trainables.job import STUDENT, trial_folder
from trainables.models.weights import SUFFIX, Card, read_network, save_network
from trainables.teachers.teacher import check_name, find_teacher, teacher_folder


def adopt_student(results: str, sweep: str, trial_id: str, name: str | None = None) -> Card:
    """Files the student of a finished trial among the teachers of its results folder.

    Args:
        results: folder or URI.
        sweep, trial_id: whose student.
        name: under which studies refer to it (``teacher: {name: ...}``); the trial's by default.

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
    there = find_teacher(results, name)
    if there is not None:
        if there.fingerprint == card.fingerprint:
            return there
        raise UserError(f"--name {name}: there is such a teacher in {results}; choose another name")
    return save_network(teacher_folder(results), name + SUFFIX, network, replace(card, name=name))
