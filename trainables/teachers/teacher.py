"""A trained teacher: a frozen network with its own input normalisation."""

import json
import re
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from trainables.compression.registry import CHOICES
from trainables.config import TrialConfig, settings_with
from trainables.data.dataset import Dataset, Images
from trainables.data.views import to_float
from trainables.errors import UserError, unknown
from trainables.evaluation import score
from trainables.files import Folder, open_folder
from trainables.methods.registry import PLAIN
from trainables.models.features import with_features
from trainables.models.outputs import Network, Outputs
from trainables.models.weights import SUFFIX, Card, read_card, read_network
from trainables.tasks.registry import TASKS
from trainables.tasks.task import Score
from trainables.teachers.classes import aligned, class_order
from trainables.trial_settings import SCRATCH, TEACHER
from trainables.worker import kept

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Teacher:
    """A frozen network in evaluation mode.

    Args:
        network: with trained weights; is frozen.
        card: its facts.
        device: where it runs.
    """

    def __init__(self, network: Network, card: Card, device: torch.device) -> None:
        self.card = card
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.network.requires_grad_(False)

    @torch.no_grad()
    def __call__(
        self,
        views: Tensor,
        change: Callable[[Tensor], Tensor] | None = None,
        depth: int | None = None,
        keys: Collection[str] = (),
        shares: Callable[[int], Tensor] | None = None,
    ) -> Outputs:
        """Outputs for uint8 views ``[B, C, H, W]``, without gradients.

        Args:
            views: what the student sees before ``change``.
            change: applied to the normalised images.
            depth: as for the network: how many stages are wanted, None for all there is.
            keys, shares: what is wanted beside: as for `with_features`.
        """
        images = to_float(views, self.card.mean, self.card.std)
        if change:
            images = change(images)
        if keys:
            return with_features(self.network, images, keys, shares, learning=False)
        outputs: Outputs = self.network(images, depth)
        return outputs

    def score(self, images: Images) -> Score:
        """Loss and metrics on images as they are."""
        device = next(self.network.parameters()).device
        task = TASKS[self.card.task]
        return score(lambda pixels: self(pixels).logits, images, device, task)


def teacher_folder(results: str) -> Folder:
    """Where the teachers of a results folder are kept, shared by its sweeps."""
    return open_folder(results) / "teachers"


def check_name(name: str) -> None:
    """Refuses what is no name of a teacher, which becomes that of its file.

    Raises:
        UserError: with what was expected.
    """
    if name in (SCRATCH, TEACHER):
        raise UserError(f"--name {name}: is what `start: {name}` means already")
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name}: expected letters, digits, '.', '_' and '-'")


def find_teacher(results: str, name: str) -> Card | None:
    """The card of a teacher, or None where there is no such teacher yet."""
    folder = teacher_folder(results)
    return read_card(folder, name + SUFFIX) if folder.exists(name + SUFFIX) else None


def list_teachers(results: str) -> dict[str, Card | UserError]:
    """The cards of all teachers of a results folder by the name of their file, sorted.

    In the place of a card that cannot be read is what is wrong with it.
    """
    folder = teacher_folder(results)
    found: dict[str, Card | UserError] = {}
    for name in sorted(file.removesuffix(SUFFIX) for file in folder.names(SUFFIX)):
        try:
            found[name] = read_card(folder, name + SUFFIX)
        except UserError as error:
            found[name] = error
    return found


def made_how(card: Card) -> str:
    """How a teacher came about, in a few words that tell two of one network apart."""
    try:
        return trained_how(TrialConfig.from_mapping(json.loads(card.origin)))
    except ValueError:  # no JSON, or of another version
        origin = card.origin if not card.origin.startswith("{") else "another version"
        return f"from {origin}" + (f", input {card.normalisation}" if card.normalisation else "")


def trained_how(config: TrialConfig) -> str:
    """How a teacher is trained, in a few words: its epochs, and what is not as everywhere."""
    plain = TrialConfig(student=config.student).to_dict()
    told = {"method", *settings_with("words"), *CHOICES} - {"start"}
    settings = [
        f"{key} {value}"
        for key, value in config.to_dict().items()
        if key == "epochs" or (key not in told and plain.get(key) != value)
    ]
    by = [] if config.method == PLAIN else [f"{config.method} by {config.teacher}"]
    return ", ".join([*by, *settings])


@kept("teachers", entries=4)
def load_teacher(
    results: str,
    name: str,
    device: str,
    dataset: Dataset | None = None,
    fingerprint: str | None = None,
) -> Teacher:
    """The teacher of a results folder, kept per process between trials.

    Args:
        results, name: where it is.
        device: where it is to run.
        dataset: whose classes its logits are to stand for, in that order; None: its own.
        fingerprint: of the teacher that is meant; None: of whatever has the name.

    Raises:
        UserError: no such teacher, its file is damaged, it is another than is meant, or it was
            made for other classes.
    """
    folder = teacher_folder(results)
    if not folder.exists(name + SUFFIX):
        known = [file.removesuffix(SUFFIX) for file in folder.names(SUFFIX)]
        raise unknown("teacher", name, known)
    card, network = read_network(folder, name + SUFFIX)
    if fingerprint is not None:
        check_fingerprint(results, name, card, fingerprint)
    if dataset is not None:
        aligned(network, class_order(card, dataset))
    return Teacher(network, card, torch.device(device))


def check_fingerprint(results: str, name: str, card: Card, expected: str) -> None:
    """Refuses a teacher that has taken the place of another one.

    Raises:
        UserError: with both fingerprints, and where the other one is now.
    """
    if card.fingerprint == expected:
        return
    kept = [
        other
        for other, found in list_teachers(results).items()
        if isinstance(found, Card) and found.fingerprint == expected
    ]
    where = f"; the one that is meant is now '{kept[0]}'" if kept else ""
    raise UserError(
        f"teacher '{name}' has changed since the sweep began: its fingerprint is "
        f"{card.fingerprint[:12]}, expected {expected[:12]}{where}"
    )
