"""A start from a file of weights of other classes: its features, below a fresh head."""

import hashlib
from pathlib import Path

import torch

from trainables.compression.measure import count_macs, count_params
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.models.weights import Card
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.matching import Fit, fit_features
from trainables.worker import kept

_HEAD_SEED = 0


def read_features(file: str, model: str, dataset: Dataset) -> Fit:
    """The network with a file's weights and a fresh head, drawn from a seed of its own.

    Args:
        file: what `read_checkpoint` reads, for example torchvision's ``vgg16_bn-6c64b313.pth``.
        model: name of the network.
        dataset: gives classes and size of the images.

    Raises:
        UserError: the file is missing or damaged, or is of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_HEAD_SEED)
        return fit_features(model, read_checkpoint(file), dataset)


def told(fit: Fit, file: str) -> str:
    """What of a file was taken, in a line."""
    place = f" in '{fit.place}'" if fit.place else ""
    layout = "" if fit.certain else "; strides and input may be others than where it was trained"
    return (
        f"{fit.model}: weights of {Path(file).name}{place} matched {fit.how}{layout}; its head is "
        f"fresh (left out: {', '.join(fit.left_out) or 'nothing'}); images in the normalisation "
        "of the data set"
    )


def card_of(fit: Fit, file: str, dataset: Dataset) -> Card:
    """The card of a network that begins so. It has no score: its head has learned nothing."""
    return Card(
        name=Path(file).name,
        model=fit.model,
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        classes=dataset.num_classes,
        class_names=dataset.classes,
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
        normalisation="dataset",
        matched=fit.how,
        test_acc=None,
        task=dataset.task,
        params=count_params(fit.network),
        macs=count_macs(fit.network, dataset.image_shape),
        origin=Path(file).name,
        fingerprint=fingerprint_of(file),
    )


def fingerprint_of(file: str) -> str:
    """sha256 (hex) of a file's bytes.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(file).expanduser()
    try:
        found = path.stat()
        return _digest(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise UserError(f"weights: {file}: {error.strerror or error}") from error


@kept("digests of weights files", entries=8)
def _digest(path: Path, size: int, changed: int) -> str:
    """Kept per process for as long as size and time of the file stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
