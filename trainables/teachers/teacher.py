"""A trained teacher: a frozen network with its own input normalisation."""

import functools
import re
from collections.abc import Callable

import torch
from torch import Tensor

from trainables.data.dataset import Images
from trainables.data.views import to_float
from trainables.errors import UserError, unknown
from trainables.evaluation import Score, score
from trainables.files import Folder, open_folder
from trainables.models.outputs import Network, Outputs
from trainables.models.weights import SUFFIX, Card, read_card, read_network

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
    ) -> Outputs:
        """Outputs for uint8 views ``[B, C, H, W]``, without gradients.

        Args:
            views: what the student sees before ``change``.
            change: applied to the normalised images.
            depth: as for the network: how many stages are wanted, None for all there is.
        """
        images = to_float(views, self.card.mean, self.card.std)
        outputs: Outputs = self.network(change(images) if change else images, depth)
        return outputs

    def score(self, images: Images) -> Score:
        """Loss and accuracy on images as they are."""
        device = next(self.network.parameters()).device
        return score(lambda pixels: self(pixels).logits, images, device)


def teacher_folder(results: str) -> Folder:
    """Where the teachers of a results folder are kept, shared by its sweeps."""
    return open_folder(results) / "teachers"


def check_name(name: str) -> None:
    """Refuses what is no name of a teacher, which becomes that of its file.

    Raises:
        UserError: with what was expected.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name}: expected letters, digits, '.', '_' and '-'")


def find_teacher(results: str, name: str) -> Card | None:
    """The card of a teacher, or None where there is no such teacher yet."""
    folder = teacher_folder(results)
    return read_card(folder, name + SUFFIX) if folder.exists(name + SUFFIX) else None


def list_teachers(results: str) -> list[Card]:
    """The cards of all teachers of a results folder, by name."""
    folder = teacher_folder(results)
    return [read_card(folder, file) for file in sorted(folder.names(SUFFIX))]


@functools.lru_cache(maxsize=4)
def load_teacher(results: str, name: str, device: str) -> Teacher:
    """The teacher of a results folder, kept per process between trials.

    Raises:
        UserError: no such teacher, or its file is damaged.
    """
    folder = teacher_folder(results)
    if not folder.exists(name + SUFFIX):
        known = [file.removesuffix(SUFFIX) for file in folder.names(SUFFIX)]
        raise unknown("teacher", name, known)
    card, network = read_network(folder, name + SUFFIX)
    return Teacher(network, card, torch.device(device))
