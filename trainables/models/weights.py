"""Trained networks on disk: one safetensors file with a card in its header."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from trainables.data.dataset import SINGLE_LABEL
from trainables.errors import UserError
from trainables.files import Folder
from trainables.models.blueprint import Blueprint, Edit, build, edit_records, read_edits
from trainables.models.outputs import Network
from trainables.tasks.metrics import percent
from trainables.tasks.task import Score

SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a trained network.

    Attributes:
        name: under which studies and rows refer to it.
        model: the name of the network's model.
        dataset, data_fingerprint: on which it was trained and evaluated.
        classes, image_shape: its output and input, ``(C, H, W)``.
        class_names: in the order of its logits; empty where a file of an older version has none.
        mean, std: its own input normalisation, per channel, of images in [0, 1].
        normalisation: what that is called: ``dataset``, ``imagenet``, ...
        margin: how much larger the cross-entropy is with the best other normalisation, in nats;
            negative where BatchNorm's statistics decided; None where nothing was compared.
        test_acc: accuracy on the test set with these weights, in [0, 1]; None where the task has
            none.
        params, macs: of the network.
        origin: the training config as JSON, or the imported file's name.
        matched: how an imported file's weights found their places.
        task: of its data set; ``metric``: the name of that task's headline.
        test_score: the headline on the test set; None in a file of an older version.
        edits: what was done to it, together with the model enough to build it again.
        fingerprint: sha256 of model, edits, classes, normalisation and weights; set by
            `save_network`.
        created_at: ISO 8601, UTC; set by `save_network`.
    """

    name: str
    model: str
    dataset: str
    data_fingerprint: str
    classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_acc: float | None
    params: int
    macs: int
    origin: str
    class_names: tuple[str, ...] = ()
    normalisation: str = ""
    margin: float | None = None
    matched: str = ""
    task: str = SINGLE_LABEL
    metric: str = "acc"
    test_score: float | None = None
    edits: tuple[Edit, ...] = ()
    fingerprint: str = ""
    created_at: str = ""

    @cached_property
    def blueprint(self) -> Blueprint:
        """What the network is."""
        return Blueprint(self.model, self.edits)

    @property
    def tested(self) -> str:
        """The headline on the test set, as it is shown."""
        value = self.test_acc if self.test_score is None else self.test_score
        return "?" if value is None else percent(value, self.metric)

    def with_score(self, score: Score) -> "Card":
        """The card with what was measured on the test set."""
        return replace(self, test_acc=score.acc, test_score=score.headline)


def save_network(folder: Folder, file: str, network: Network, card: Card) -> Card:
    """Writes weights and card, at once or not at all.

    Returns:
        The card with fingerprint and date.
    """
    weights = {key: tensor.contiguous().cpu() for key, tensor in network.state_dict().items()}
    card = replace(
        card,
        fingerprint=fingerprint(card, weights),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(folder, file, card, weights)
    return card


def copy_network(folder: Folder, file: str, to: str, name: str) -> None:
    """Writes a network once more into its folder, under another file and another name.

    Raises:
        UserError: the file is missing or damaged.
    """
    card, weights = _parse(file, _bytes(folder, file))
    _write(folder, to, replace(card, name=name), weights)


def _write(folder: Folder, file: str, card: Card, weights: dict[str, Tensor]) -> None:
    facts = asdict(replace(card, edits=()))
    del facts["edits"]
    if card.edits:  # of others the file is what it was before there were any
        facts["edits"] = edit_records(card.edits)
    folder.write(file, safetensors.torch.save(weights, {"card": json.dumps(facts)}))


def read_card(folder: Folder, file: str) -> Card:
    """The card of a network's file.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _parse(file, _bytes(folder, file))[0]


def read_network(folder: Folder, file: str) -> tuple[Card, Network]:
    """The network with its weights, and its card.

    Raises:
        UserError: the file is missing, or damaged: with expected and found fingerprint.
    """
    card, weights = _parse(file, _bytes(folder, file))
    found = fingerprint(card, weights)
    if found != card.fingerprint:
        raise UserError(
            f"{file} is damaged: its weights hash to {found[:12]}, expected {card.fingerprint[:12]}"
        )
    network = build(card.blueprint, card.classes, card.image_shape)
    network.load_state_dict(weights)
    return card, network


def fingerprint(card: Card, weights: dict[str, Tensor]) -> str:
    """sha256 over what decides the network's outputs: model and edits, classes, normalisation,
    weights."""
    facts: list[object] = [card.model, card.mean, card.std]
    if card.class_names:  # cards did not always have them
        facts.append(card.class_names)
    if card.edits:
        facts.append(edit_records(card.edits))
    digest = hashlib.sha256(json.dumps(facts).encode())
    for key in sorted(weights):
        tensor = weights[key].contiguous().cpu()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _bytes(folder: Folder, file: str) -> bytes:
    if not folder.exists(file):
        raise UserError(f"no file {file} in {folder}")
    return folder.read(file)


def _parse(file: str, data: bytes) -> tuple[Card, dict[str, Tensor]]:
    try:
        weights = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts = json.loads(header["__metadata__"]["card"])
        for key in ("image_shape", "mean", "std", "class_names"):
            facts[key] = tuple(facts.get(key, ()))
        facts["edits"] = read_edits(facts.get("edits", ()))
        return Card(**facts), weights
    except UserError as error:  # an edit of a package that is not installed here
        raise UserError(f"{file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{file} is damaged or not written by kdsweep: {error}") from error
