"""A teacher from a file of weights that somebody else trained."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from trainables.compression.measure import count_macs, count_params
from trainables.data.dataset import Dataset, Images
from trainables.errors import UserError, unknown
from trainables.models.outputs import Network
from trainables.models.weights import SUFFIX, Card, save_network
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.matching import fit_weights
from trainables.teachers.teacher import Teacher, check_name, teacher_folder

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

NORMALISATIONS: dict[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Input normalisations by name; ``dataset`` stands for the data set's own."""

PROBE_IMAGES = 2000


def import_teacher(
    model: str,
    file: str,
    dataset: Dataset,
    *,
    results: str,
    name: str | None = None,
    normalisation: str = "auto",
    device: torch.device | None = None,
) -> Card:
    """Reads weights, evaluates them on the test set, and files the teacher.

    Args:
        model: the architecture; for a CIFAR ResNet the kind of shortcut is found from the file.
        file: safetensors, or what ``torch.save`` wrote: see `read_checkpoint`.
        dataset: what it was trained on.
        results: folder or URI where the teacher is kept.
        name: under which studies refer to it; the architecture's name by default.
        normalisation: a name of `NORMALISATIONS`, ``dataset``, ``mean/std`` in numbers
            (``0.5,0.5,0.5/0.2,0.2,0.2``), or ``auto``: the known one with which the network has
            the lowest cross-entropy on 2,000 training images.
        device: where it is evaluated; the CPU by default.

    Returns:
        The card, with the accuracy on the test set.

    Raises:
        UserError: the file cannot be read, or does not fit the architecture.
    """
    if name:
        check_name(name)
    device = device or torch.device("cpu")
    fit = fit_weights(model, read_checkpoint(file), dataset.num_classes, dataset.image_shape)
    network = fit.network
    card = Card(
        name=name or model,
        model=fit.model,
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
        test_acc=0.0,
        params=count_params(network),
        macs=count_macs(network, dataset.image_shape),
        origin=Path(file).name,
    )
    card = _normalised(network, card, dataset, normalisation, device)
    test_acc = Teacher(network, card, device).score(dataset.read_test()).acc
    return save_network(
        teacher_folder(results), card.name + SUFFIX, network, replace(card, test_acc=test_acc)
    )


def _normalised(
    network: Network, card: Card, dataset: Dataset, normalisation: str, device: torch.device
) -> Card:
    """The card with the input normalisation that was asked for, or found."""
    known = {"dataset": (dataset.mean, dataset.std)}
    known |= {
        key: statistics
        for key, statistics in NORMALISATIONS.items()
        if len(statistics[0]) == dataset.image_shape[0]
    }
    if normalisation in known:
        return replace(card, mean=known[normalisation][0], std=known[normalisation][1])
    if normalisation != "auto":
        mean, std = _numbers(normalisation, dataset.image_shape[0], list(known))
        return replace(card, mean=mean, std=std)
    probe = Images(dataset.train.images[:PROBE_IMAGES], dataset.train.labels[:PROBE_IMAGES])
    cards = [replace(card, mean=mean, std=std) for mean, std in known.values()]
    # Trained networks get nearly all of these right in any normalisation; how sure they are tells.
    return min(cards, key=lambda tried: Teacher(network, tried, device).score(probe).loss)


def _numbers(text: str, channels: int, known: list[str]) -> Statistics:
    try:
        mean, std = (tuple(float(part) for part in half.split(",")) for half in text.split("/", 1))
    except ValueError:
        raise unknown("normalisation", text, ["auto", *known, "MEAN,../STD,.."]) from None
    finite = all(math.isfinite(value) for value in (*mean, *std))
    if len(mean) != channels or len(std) != channels or min(std) <= 0 or not finite:
        raise UserError(f"normalisation: expected {channels} means and {channels} deviations > 0")
    return mean, std
