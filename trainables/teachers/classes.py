"""A teacher belongs to its classes: which of its logits stands for which class of a data set."""

from collections.abc import Sequence

import torch

from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.models.outputs import Network
from trainables.models.weights import Card

_SHOWN = 3


def class_order(card: Card, dataset: Dataset) -> list[int] | None:
    """The places of a data set's classes among a teacher's logits.

    Args:
        card: of the teacher.
        dataset: for which it is to speak.

    Returns:
        For every class of the data set the index of the teacher's logit; None where both have
        the same order.

    Raises:
        UserError: they have other classes or images, which the message names.
    """
    if (card.classes, card.image_shape) != (dataset.num_classes, dataset.image_shape):
        raise UserError(
            f"teacher '{card.name}' was made for {card.classes} classes of images "
            f"{card.image_shape}, dataset '{dataset.name}' has "
            f"{dataset.num_classes} of {dataset.image_shape}"
        )
    if card.task != dataset.task:
        raise UserError(
            f"teacher '{card.name}' was made for {card.task} images, dataset '{dataset.name}' is "
            f"{dataset.task}"
        )
    if not card.class_names:
        if card.data_fingerprint != dataset.fingerprint:
            raise UserError(
                f"teacher '{card.name}' was filed by an older version, which kept no class names, "
                f"and for other data than '{dataset.name}'; import or train it again"
            )
        return None
    if card.class_names == dataset.classes:
        return None
    return matching_order(f"teacher '{card.name}'", card.class_names, dataset)


def matching_order(whose: str, names: Sequence[str], dataset: Dataset) -> list[int]:
    """Where each class of a data set stands among ``names``.

    Raises:
        UserError: the names are not the data set's, or one stands there twice.
    """
    if len(names) != dataset.num_classes:
        raise UserError(
            f"{whose} has {len(names)} classes, dataset '{dataset.name}' has {dataset.num_classes}"
        )
    if set(names) != set(dataset.classes):
        raise UserError(
            f"{whose} has other classes than dataset '{dataset.name}': "
            f"{_only(names, dataset.classes)} instead of {_only(dataset.classes, names)}"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UserError(f"{whose} has the class '{twice}' twice, and in another order: which one?")
    place = {name: index for index, name in enumerate(names)}
    return [place[name] for name in dataset.classes]


def aligned(network: Network, order: Sequence[int] | None) -> Network:
    """The network with its logits brought into an order; in place.

    The last layer's rows are moved, and those of its mask, so that whatever reads the network sees
    one order.

    Args:
        network: ends in its linear ``classifier``.
        order: for every new logit the index of the old one; None: as it is.
    """
    if order is None:
        return network
    rows = torch.tensor(order, device=network.classifier.weight.device)
    with torch.no_grad():
        for tensor in (*network.classifier.parameters(), *network.classifier.buffers()):
            if tensor.ndim and len(tensor) == len(rows):  # not what is one for all logits
                tensor.copy_(tensor[rows])
    return network


def remark(card: Card, dataset: Dataset) -> str | None:
    """What a user should know of a teacher that was made for other data; None: nothing.

    Raises:
        UserError: as `class_order`.
    """
    order = class_order(card, dataset)
    if card.data_fingerprint == dataset.fingerprint:
        return None
    said = f"teacher '{card.name}' was made for other data ({card.dataset})"
    if order is None:
        return f"{said} with the same classes"
    return f"{said}, whose classes stand in another order: its logits are mapped by name"


def guessing(card: Card) -> str | None:
    """What a user should know of a teacher that has hardly learned anything; None: nothing.

    It is within a twentieth of the way from guessing to being right.
    """
    chance = 1 / card.classes
    if card.test_acc is None or card.test_acc > chance + 0.05 * (1 - chance):
        return None
    return (
        f"warning: teacher '{card.name}' has {card.tested} on the test set, hardly more than "
        f"guessing one of {card.classes} classes gives: it has next to nothing to teach"
    )


def _only(names: Sequence[str], others: Sequence[str]) -> str:
    own = [name for name in names if name not in set(others)]
    shown = ", ".join(name if len(name) <= 30 else f"{name[:27]}..." for name in own[:_SHOWN])
    return shown + (f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else "")
