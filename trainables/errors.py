"""The errors a user meets: one line that says what is wrong, and what to do about it."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: a key, a value, a file. Shown as one line, exit code 2."""


class TrainingFailed(RuntimeError):
    """A training that ended early for a reason to act on. Shown as one line, exit code 1.

    In a sweep its row says ``failed``, the class's name and the line.
    """


class Diverged(TrainingFailed):
    """A loss became NaN or infinite."""


class TeacherBroken(TrainingFailed):
    """The teacher says NaN or infinite values to real images."""


class OutOfMemoryError(TrainingFailed):
    """The GPU's memory, or the host's, is full. In a sweep: once more with a larger share."""


class DeviceError(TrainingFailed):
    """The device is lost to its process. In a sweep: once more in another process."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not registered, with the nearest known names.

    Args:
        kind: what the name should have been, for example ``"method"``.
        name: what the user wrote.
        known: every name that would have been right.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.55)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} '{name}'; {hint}")
