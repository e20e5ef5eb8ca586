"""The trained networks of a results folder: a trial's student, or a teacher."""

from trainables.errors import UserError, unknown
from trainables.files import open_folder
from trainables.job import STUDENT, trial_folder
from trainables.models.outputs import Network
from trainables.models.weights import SUFFIX, Card, read_network
from trainables.teachers.teacher import teacher_folder


def read_student(results: str, sweep: str, trial_id: str) -> tuple[Card, Network]:
    """The student of a finished trial, and its card.

    Args:
        results: folder or URI.
        sweep, trial_id: whose student.

    Raises:
        UserError: no such trial, it has not finished, or its file is damaged.
    """
    known = (open_folder(results) / sweep / "checkpoints").folders()
    if trial_id not in known:
        raise unknown("trial", trial_id, known)
    folder = trial_folder(results, sweep, trial_id)
    if not folder.exists(STUDENT):
        raise UserError(f"trial '{trial_id}' has no student: it has not completed")
    return read_network(folder, STUDENT)


def read_teacher(results: str, name: str) -> tuple[Card, Network]:
    """A teacher of a results folder, and its card.

    Raises:
        UserError: no such teacher, or its file is damaged.
    """
    folder = teacher_folder(results)
    known = [file.removesuffix(SUFFIX) for file in folder.names(SUFFIX)]
    if name not in known:
        raise unknown("teacher", name, known)
    return read_network(folder, name + SUFFIX)
