"""A trained network as a file for others to run: ONNX, or what ``torch.export`` writes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainables.compression.measure import size_bytes
from trainables.data.dataset import Dataset
from trainables.data.sources import SOURCES, load_dataset
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.evaluation import score
from trainables.models.outputs import Network
from trainables.models.weights import Card
from trainables.runtimes.deploying import becomes_integers
from trainables.runtimes.exported import FileAnswer, Statistics, input_text
from trainables.runtimes.onnx_file import export_onnx
from trainables.runtimes.pt2_file import export_pt2, needed
from trainables.tasks.metrics import percent
from trainables.tasks.registry import TASKS
from trainables.version import code_version

WRITERS = {"onnx": export_onnx, "pt2": export_pt2}
"""By the ending of the file."""

LOST = 0.005
"""By how much a file's headline on the test set may differ from that of the trial's row."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written.

    Attributes:
        path: the file.
        size_bytes: of the file.
        takes: what its input is, in words.
        difference: from the network: the largest of a logit, over the largest logit or 1.
        tested: the file's headline on the test set, in [0, 1]; None where that was not read.
        unchecked: why it was not read; empty where it was.
        packed_bytes: what the row counts for the network, of which weights of few bits are stored
            as float32 in the file; None where none are.
        needs: the line of Python to run before the file is loaded; empty where there is none.
    """

    path: Path
    size_bytes: int
    takes: str
    difference: float
    tested: float | None
    unchecked: str
    packed_bytes: int | None
    needs: str


def export(
    card: Card,
    network: Network,
    path: Path,
    kind: str,
    *,
    sweep: str | None = None,
    normalise: bool = False,
    data_dir: str | None = None,
    must_test: bool = False,
    say: Say = lambda _: None,
) -> Export:
    """Writes a trained network as a file that was checked.

    The file answers to random images as the network does, and on the test set, where its data set
    is there, it scores what its row says to half a point; otherwise it is not written.

    Args:
        card, network: of a trial's student, or a teacher.
        path: a file in a folder that is there; an older one is replaced.
        kind: one of `WRITERS`.
        sweep: of the trial; None for a teacher.
        normalise: normalise inside: the file takes uint8 pixels.
        data_dir: where data sets are.
        must_test: whether it is an error that the data set is not there.
        say: gets a line before everything that takes long.

    Raises:
        UserError: the network cannot be exported, the file disagrees with it or scores otherwise
            (with both numbers), the data set is missing, or the file cannot be written.
    """
    statistics = (card.mean, card.std) if normalise else None
    dataset, unchecked = _dataset(card, data_dir, must_test)
    tested: list[float] = []

    def accept(answer: FileAnswer) -> None:
        if dataset is not None:
            tested.append(_test(card, dataset, answer, statistics, say))

    say(f"exporting {card.name} ({card.blueprint.label}), and comparing the file with the network")
    difference = WRITERS[kind](
        network,
        card.image_shape,
        path,
        mean=card.mean if normalise else None,
        std=card.std if normalise else None,
        provenance=provenance(card, sweep, statistics),
        accept=accept,
    )
    return Export(
        path=path,
        size_bytes=path.stat().st_size,
        takes=input_text(card.image_shape, statistics),
        difference=difference,
        tested=tested[0] if tested else None,
        unchecked=unchecked,
        packed_bytes=size_bytes(network) if _packed(network, kind) else None,
        needs=needed(network, card.image_shape) if kind == "pt2" else "",
    )


def provenance(card: Card, sweep: str | None, statistics: Statistics | None) -> Mapping[str, str]:
    """Where a network is from, and what its file takes: text by key, lists as JSON."""
    facts: dict[str, object] = {
        "kdsweep": code_version(),
        "torch": torch.__version__,
        "sweep": sweep or "",
        "trial" if sweep else "teacher": card.name,
        "config": card.origin,
        "blueprint": card.blueprint.to_json(),
        "fingerprint": card.fingerprint,
        "dataset": card.dataset,
        "data_fingerprint": card.data_fingerprint,
        "class_names": card.class_names,
        "image_shape": card.image_shape,
        "input": input_text(card.image_shape, statistics),
        "mean": card.mean,
        "std": card.std,
        "metric": card.metric,
        "test_score": _recorded(card),
        "test_acc": card.test_acc,
    }
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in facts.items()}


def dataset_of(card: Card, data_dir: str | None) -> Dataset:
    """The data set that a network was trained on.

    Raises:
        UserError: it is not there, or is not what it was.
    """
    found = load_dataset(card.dataset, data_dir, image_size=_image_size(card))
    if found.fingerprint != card.data_fingerprint:
        raise UserError(
            f"dataset '{card.dataset}' is not the one that {card.name} was trained on: its "
            f"fingerprint is {found.fingerprint[:12]}, expected {card.data_fingerprint[:12]}"
        )
    return found


def _dataset(card: Card, data_dir: str | None, needed: bool) -> tuple[Dataset | None, str]:
    """The data set of the test, or why there is none."""
    if _recorded(card) is None:
        return None, "its card has no score on the test set"
    try:
        return dataset_of(card, data_dir), ""
    except UserError as error:
        if needed:
            raise
        return None, str(error)


def _image_size(card: Card) -> int | None:
    """The ``image_size`` of images that become squares; others have their own size."""
    source = SOURCES.get(card.dataset.partition(":")[0])
    chosen = source is not None and (source.takes_path or source.resizable)
    return card.image_shape[1] if chosen and card.image_shape[1] == card.image_shape[2] else None


def _packed(network: Network, kind: str) -> bool:
    """Whether weights have few bits, and a file of this kind keeps them as float32 all the same."""
    return any(
        getattr(module, "weight_bits", 32) < 32
        and module.weight.dtype is torch.float32
        and not (kind == "onnx" and becomes_integers(module))
        for module in network.modules()
    )


def _recorded(card: Card) -> float | None:
    return card.test_acc if card.test_score is None else card.test_score


def _test(
    card: Card, dataset: Dataset, answer: FileAnswer, statistics: Statistics | None, say: Say
) -> float:
    """The headline of a file on the whole test set."""
    images = dataset.read_test()
    say(f"scoring the file on the {len(images):,} test images of {dataset.name}")

    def logits_of(pixels: Tensor) -> Tensor:
        return answer(pixels if statistics else to_float(pixels, card.mean, card.std))

    found = score(logits_of, images, torch.device("cpu"), TASKS[card.task]).headline
    expected = _recorded(card)
    assert expected is not None
    if not abs(found - expected) <= LOST:
        raise UserError(
            f"the file scores {percent(found, card.metric)} on the test set of {dataset.name}, and "
            f"{card.name} {percent(expected, card.metric)}: no file is written"
        )
    return found
