"""Which part of a data set is trained on and which is the test set, by what it is called."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainables.data.notes import listed
from trainables.errors import UserError

TRAIN, TEST, VALIDATION = "train", "test", "validation"
ROLES: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training"),
    TEST: ("test", "testing"),
    VALIDATION: ("val", "valid", "validation", "dev", "eval", "evaluation"),
}
WORDS = {word: role for role, words in ROLES.items() for word in words}
EXPECTED = "train and test (or val, valid, validation)"


def role_of(name: str) -> str | None:
    """The role of a folder that is called so, however its letters are cased."""
    return WORDS.get(name.lower())


def the_one(folder: Path, role: str, found: Sequence[str]) -> str:
    """The only one of ``found``.

    Raises:
        UserError: there are several.
    """
    if len(found) > 1:
        what = {TRAIN: "training"}.get(role, role)
        raise UserError(
            f"{folder}: {listed(found)} could each be the {what} set; leave one of them there"
        )
    return found[0]


def choose_test(
    folder: Path, tests: Sequence[str], validations: Sequence[str], unlabelled: str | None
) -> tuple[str, tuple[str, ...]]:
    """Which of the parts of ``folder`` is the test set, and what is to be said about that.

    Args:
        folder: for errors.
        tests: what is called a test set; one at most where ``unlabelled`` is given.
        validations: what is called a validation set.
        unlabelled: why the test set cannot be one, for example ``"test has no labels"``.

    Raises:
        UserError: there is none, or it is not clear which.
    """
    if tests and not unlabelled:
        test = the_one(folder, TEST, tests)
        spare = (f"{test} is the test set: {listed(validations)} not read",) if validations else ()
        return test, spare
    if not validations:
        raise UserError(f"{folder}: {unlabelled}, and no val, valid or validation is there instead")
    chosen = the_one(folder, VALIDATION, validations)
    return chosen, (f"{unlabelled or 'there is no test'}: {chosen} serves as the test set",)


def same_name(name: str) -> str:
    """Equal for names that look the same, however their accents are written down."""
    return unicodedata.normalize("NFC", name)
