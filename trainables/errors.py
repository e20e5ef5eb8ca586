"""The errors a user meets: one line that names the key and what was expected."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: a key, a value, a file. Shown as one line, exit code 2."""


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
