"""Start: the trained network with whose weights a student begins."""

from typing import NamedTuple

from trainables.data.dataset import Dataset
from trainables.errors import UserError, unknown
from trainables.models.blueprint import Blueprint
from trainables.models.outputs import Network
from trainables.models.registry import canonical_name
from trainables.models.weights import SUFFIX, Card, read_network
from trainables.teachers.classes import aligned, class_order
from trainables.teachers.pretrained import card_of, read_features, told
from trainables.teachers.teacher import check_fingerprint, teacher_folder
from trainables.trial_settings import WEIGHTS
from trainables.worker import kept


class Start(NamedTuple):
    """A network to begin with.

    Attributes:
        card: its facts. Its input normalisation is the student's as well, since no weights say
            the same in another one.
        network: with its weights, its logits in the order of the data set's classes. It is read
            by several trials: who trains takes a copy.
        note: what a user should know of how it came about.
    """

    card: Card
    network: Network
    note: str | None = None


def check_start(start: str, student: str, blueprint: Blueprint) -> None:
    """Refuses a start that the student of a trial cannot begin with.

    Args:
        start: as the config has it.
        student: name of the network that the config asks for.
        blueprint: of the start.

    Raises:
        UserError: it is another network, or one that must not be trained on.
    """
    if canonical_name(student) != blueprint.model:
        raise UserError(
            f"student: {student}: start: {start} begins with {blueprint.model}; "
            f"write student: {blueprint.model}"
        )
    settled = [one.kind for one in blueprint.edits if one.settles]
    if settled:
        raise UserError(
            f"start: {start}: its weights are settled by edit '{settled[0]}', and training would "
            "change them; begin with the network of before that"
        )


def check_card(start: str, card: Card, dataset: Dataset) -> None:
    """Refuses a start that was made for other classes, images or another task.

    Raises:
        UserError: with the difference.
    """
    try:
        class_order(card, dataset)
    except UserError as error:
        raise UserError(f"start: {start}: {error}") from error


def remark(card: Card, dataset: Dataset) -> str | None:
    """What a user should know of a start's images; None: nothing."""
    if (card.mean, card.std) == (dataset.mean, dataset.std):
        return None
    called = card.normalisation or "its own"
    return f"start '{card.name}': its students see images in its normalisation ({called})"


@kept("starts", entries=4)
def load_start(
    results: str,
    name: str,
    dataset: Dataset,
    fingerprint: str | None = None,
    model: str | None = None,
) -> Start:
    """A start from the teachers of a results folder, kept per process between trials.

    Args:
        results, name: where it is; with `WEIGHTS` before it the name is that of a file of
            weights, whose features are taken.
        dataset: whose classes its logits are to stand for, in that order.
        fingerprint: of the network, or of the file, that is meant; None: of whatever has the name.
        model: the network for a file of weights.

    Raises:
        UserError: there is none, its file is damaged, it is another than is meant, or it was made
            for other classes or images.
    """
    if name.startswith(WEIGHTS):
        return _from_file(name.removeprefix(WEIGHTS), str(model), dataset, fingerprint)
    folder = teacher_folder(results)
    if not folder.exists(name + SUFFIX):
        raise unknown("start", name, [one.removesuffix(SUFFIX) for one in folder.names(SUFFIX)])
    card, network = read_network(folder, name + SUFFIX)
    if fingerprint is not None:
        check_fingerprint(results, name, card, fingerprint)
    check_card(name, card, dataset)
    return Start(card, aligned(network, class_order(card, dataset)))


def _from_file(file: str, model: str, dataset: Dataset, fingerprint: str | None) -> Start:
    fit = read_features(file, model, dataset)
    card = card_of(fit, file, dataset)
    if fingerprint not in (None, card.fingerprint):
        raise UserError(f"weights: {file} is another file than the teacher was to begin with")
    return Start(card, fit.network, told(fit, file))
