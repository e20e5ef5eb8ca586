"""A teacher from a file of weights that somebody else trained."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from trainables.compression.measure import count_macs, count_params
from trainables.data.dataset import Dataset, Images
from trainables.errors import UserError, unknown
from trainables.models.outputs import Network
from trainables.models.registry import FAMILIES, create_model
from trainables.models.weights import SUFFIX, Card, save_network
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
        file: ``.safetensors``, or what ``torch.save`` wrote: a state dict, bare or under
            ``state_dict``, ``model`` or ``net``, with or without a prefix such as ``module.``.
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
    weights = read_weights(file)
    built, network = _build(model, weights, dataset, file)
    card = Card(
        name=name or model,
        model=built,
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


def read_weights(file: str) -> dict[str, Tensor]:
    """The tensors of a weights file by their plain names.

    Raises:
        UserError: the file is missing, damaged, or holds something else than weights.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"weights file '{file}' does not exist")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of how it was pickled: it is read, or refused
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes the unpickler raises errors of any kind
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"weights file '{file}' cannot be read: {reason}") from error
    for key in ("state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not (isinstance(content, Mapping) and content) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise UserError(f"weights file '{file}' holds no state dict of tensors")
    return _without_prefix(dict(content))


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strips what wraps all names alike, such as DataParallel's ``module.``."""
    while weights:
        heads = {key.partition(".")[0] for key in weights}
        if len(heads) > 1 or not all("." in key for key in weights):
            break
        weights = {key.partition(".")[2]: value for key, value in weights.items()}
    return weights


def _build(
    model: str, weights: dict[str, Tensor], dataset: Dataset, file: str
) -> tuple[str, Network]:
    """The network that fits the weights; both kinds of CIFAR shortcut are tried."""
    candidates = [model]
    if f"{model}_zeropad" in FAMILIES["resnet"].members:
        candidates.append(f"{model}_zeropad")
    problem = ""
    for candidate in candidates:
        network = create_model(candidate, dataset.num_classes, dataset.image_shape)
        try:
            network.load_state_dict(weights)
            return candidate, network
        except RuntimeError as error:
            problem = problem or "; ".join(str(error).split("\n")[1:3]).strip().replace("\t", "")
    raise UserError(f"weights file '{file}' does not fit {model} for {dataset.name}: {problem}")


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
