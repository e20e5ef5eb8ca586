"""What a picture shows of a network: some images, their maps by explainer, attention by stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.attribution.costs import Effort
from trainables.attribution.explaining import explain
from trainables.attribution.registry import EXPLAINERS
from trainables.data.dataset import Images
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.models.outputs import Network
from trainables.models.shapes import evaluating
from trainables.models.weights import Card
from trainables.tasks.registry import TASKS


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What a network makes of ``n`` images.

    Attributes:
        said: the class that it answers to each. Where every class is a question by itself: the one
            that the image is explained for, or ``not`` and its name.
        maps: by explainer ``[n, H, W]`` float32, and whether they are signed.
        attention: of every stage the mean over channels of its squares, ``[n, h, w]`` float32.
    """

    said: tuple[str, ...]
    maps: Mapping[str, tuple[Tensor, bool]]
    attention: tuple[Tensor, ...]


def first_of_each_class(
    images: Images, classes: Sequence[str], most: int
) -> tuple[list[int], tuple[str, ...]]:
    """Positions of the first image of each class, none twice, and the classes' names.

    Classes without an image of their own are left out; at most ``most`` are taken.
    """
    labels, chosen, names = images.labels, list[int](), list[str]()
    for number, name in enumerate(classes):
        of_class = labels == number if labels.ndim == 1 else labels[:, number] == 1
        places = of_class.nonzero().flatten().tolist()
        place = next((one for one in places if one not in chosen), None)
        if place is not None and len(chosen) < most:
            chosen.append(place)
            names.append(name)
    return chosen, tuple(names)


def explained(
    card: Card,
    network: Network,
    images: Tensor,
    classes: Sequence[str],
    known: Sequence[str],
    explainers: Mapping[str, Any],
    effort: Effort | None = None,
) -> Explained:
    """Images as a network sees them, explained for one class each; the network stays as it is.

    Args:
        card: of the network.
        network: with weights.
        images: uint8 ``[n, C, H, W]``.
        classes: for which class each is explained.
        known: of the data set, for a card that does not name its own.
        explainers: configs by name.
        effort: of which this is a part; None: it is all of it.

    Raises:
        UserError: an explainer that the network cannot have, or a class that it does not know.
    """
    own = list(card.class_names or known)
    if unknown := [name for name in classes if name not in own]:
        raise UserError(f"{card.name} has no class '{unknown[0]}'")
    targets = torch.tensor([own.index(name) for name in classes])
    pixels = to_float(images, card.mean, card.std)
    with evaluating(network), torch.no_grad():
        outputs = network(pixels)
    seen_as = card.mean, card.std
    maps = explain(network, explainers, pixels, targets, normalisation=seen_as, effort=effort)
    return Explained(
        said=_said(outputs.logits, targets, own, TASKS[card.task].independent),
        maps={name: (found.cpu(), _signed(name, found)) for name, found in maps.items()},
        attention=tuple(stage.float().square().mean(1) for stage in outputs.stages),
    )


def _said(
    logits: Tensor, targets: Tensor, names: Sequence[str], independent: bool
) -> tuple[str, ...]:
    if not independent:
        return tuple(names[best] for best in logits.argmax(1).tolist())
    yes = (logits.gather(1, targets[:, None])[:, 0] > 0).tolist()
    asked = [names[target] for target in targets.tolist()]
    return tuple(name if one else f"not {name}" for name, one in zip(asked, yes, strict=True))


def _signed(name: str, maps: Tensor) -> bool:
    """Whether an explainer speaks against a class, by its nature or by its settings."""
    return bool(EXPLAINERS[name].signed or (maps < 0).any())
