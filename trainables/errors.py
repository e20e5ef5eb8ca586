"""The errors a user meets: one line that says what is wrong, and what to do about it."""

import difflib
from collections.abc import Iterable, Sequence

_LISTED, _NAMED = 180, 60
"""Letters of a list of names, and of one name, in an error."""


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
    hint = nearest(name, names) or f"known: {_listed(names)}"
    return UserError(f"unknown {kind} '{_shortened(name)}'; {hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that are next to one, as a question; empty where none is near.

    Those that begin with it, where they are few; else the most alike.
    """
    names = sorted(known)
    longer = [one for one in names if len(name) > 2 and one.startswith(name)]
    if 0 < len(longer) <= 3:
        return f"did you mean {' or '.join(longer)}?"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.55)
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in near]
    near = [one for one, like in zip(near, likeness, strict=True) if like > likeness[0] - 0.1]
    return f"did you mean {' or '.join(near)}?" if near else ""


def _listed(names: Sequence[str]) -> str:
    """The names, or the first that fit on a line."""
    text = ", ".join(names)
    if len(text) <= _LISTED:
        return text
    first = text[: text.rfind(", ", 0, _LISTED)]
    return f"{first}, ... ({len(names)} in all)"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAMED else f"{name[:_NAMED]}..."
