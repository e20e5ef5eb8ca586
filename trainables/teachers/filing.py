"""A teacher's name is its own: how teachers come into a results folder, and never over another."""

import itertools

from trainables.errors import UserError
from trainables.files import Folder
from trainables.models.outputs import Network
from trainables.models.weights import (
    SUFFIX,
    Card,
    copy_network,
    fingerprint,
    read_card,
    save_network,
)


def same_teacher(
    folder: Folder, name: str, network: Network, card: Card, *, replacing: bool
) -> Card | None:
    """Whether a teacher is filed already, asked before work is done for it.

    Args:
        folder: of the teachers.
        name: of its file, without suffix.
        network, card: the teacher; the card needs no fingerprint yet.
        replacing: whether it may take a name that another teacher has.

    Returns:
        The card of the same teacher, made on the same data, under that name; None where the name
        is free, or to be taken.

    Raises:
        UserError: another teacher has the name; the message says which.
    """
    if not folder.exists(name + SUFFIX):
        return None
    try:
        there = read_card(folder, name + SUFFIX)
    except UserError:
        if replacing:
            return None
        raise
    same = fingerprint(card, network.state_dict()), card.data_fingerprint
    if (there.fingerprint, there.data_fingerprint) == same:
        return there
    if replacing:
        return None
    raise UserError(
        f"--name {name}: is the name of another teacher in {folder} ({there.blueprint.label}, "
        f"{there.tested} on {there.dataset}); choose another name, or --replace it: "
        "it is then kept under another name"
    )


def file_teacher(
    folder: Folder, name: str, network: Network, card: Card
) -> tuple[Card, str | None]:
    """Files a teacher under its name; another one that has it keeps its file under the next free
    name: ``NAME.1``, ``NAME.2``, ...

    Returns:
        The card with fingerprint and date, and the new name of the other teacher; None where
        there was none.
    """
    kept = _set_aside(folder, name) if folder.exists(name + SUFFIX) else None
    return save_network(folder, name + SUFFIX, network, card), kept


def _set_aside(folder: Folder, name: str) -> str:
    numbered = (f"{name}.{number}" for number in itertools.count(1))
    kept = next(other for other in numbered if not folder.exists(other + SUFFIX))
    try:
        copy_network(folder, name + SUFFIX, kept + SUFFIX, name=kept)
    except UserError:  # it is damaged, and stays as it is
        folder.write(kept + SUFFIX, folder.read(name + SUFFIX))
    return kept
