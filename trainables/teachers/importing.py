"""A teacher from a file of weights that somebody else trained."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from trainables.compression.measure import count_macs, count_params
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.models.external import published_statistics, without_tag
from trainables.models.weights import Card
from trainables.tasks.registry import TASKS
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.classes import aligned, matching_order
from trainables.teachers.filing import file_teacher, same_teacher
from trainables.teachers.matching import fit_weights
from trainables.teachers.normalisation import probe
from trainables.teachers.normalisations import candidates_of, named
from trainables.teachers.plausible import check_plausible
from trainables.teachers.teacher import Teacher, check_name, teacher_folder


def import_teacher(
    model: str,
    file: str,
    dataset: Dataset,
    *,
    results: str,
    name: str | None = None,
    normalisation: str = "auto",
    class_names: Sequence[str] | None = None,
    force: bool = False,
    replacing: bool = False,
    device: torch.device | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Card:
    """Reads weights, evaluates them on the test set, and files the teacher.

    Args:
        model: the architecture; for a CIFAR ResNet the kind of shortcut is found from the file.
        file: what `read_checkpoint` reads.
        dataset: what it was trained on. Whatever is guessed is tried on its training images.
        results: folder or URI where the teacher is kept.
        name: under which studies refer to it; the architecture's name by default, ``timm-NAME``
            of ``timm:NAME``.
        normalisation: what `named` takes, or ``auto``: found by `probe`.
        class_names: in the order of the file's logits; None: as the file tells them, else those
            of the data set.
        force: whether a network that gets nothing right is filed all the same.
        replacing: whether it may take the name of another teacher, which is then kept under
            another one.
        device: where it is evaluated; the CPU by default.
        say: gets a line for everything that was guessed, ignored or mapped.

    Returns:
        The card, with the accuracy on the test set.

    Raises:
        UserError: the file cannot be read, does not fit the architecture or the classes; its
            normalisation is not clear; it is no better than chance; the name is taken; the data
            set is not single-label.
    """
    if TASKS[dataset.task].independent:
        raise UserError(
            f"teacher import: by '{dataset.name}', which is {dataset.task}, nobody can tell yet "
            "whether weights are what they should be; train a teacher (on from a file of features: "
            "`weights: FILE` below teacher), or adopt a student"
        )
    name = name or re.sub(r"[^\w.-]", "-", without_tag(model))
    check_name(name)
    device = device or torch.device("cpu")
    for note in dataset.notes:
        say(f"{dataset.name}: {note}")
    checkpoint = read_checkpoint(file)
    fit = fit_weights(model, checkpoint, dataset.num_classes, dataset.image_shape)
    where = f" in '{fit.place}'" if fit.place else ""
    ignored = f"; ignored: {', '.join(fit.left_out)}" if fit.left_out else ""
    say(f"weights{where} matched {fit.how}{ignored}")

    names = tuple(class_names or checkpoint.class_names or dataset.classes)
    network = fit.network.to(device).eval()
    if names != dataset.classes:
        whose = "--class-names" if class_names else f"the file '{Path(file).name}'"
        aligned(network, matching_order(whose, names, dataset))
        say(f"its classes stand in another order than those of {dataset.name}: mapped by name")

    tried = candidates_of(dataset, checkpoint.statistics, published_statistics(model))
    if normalisation != "auto":
        chosen_name, statistics = named(normalisation, dataset, tried)
        tried = {chosen_name: statistics} | {n: s for n, s in tried.items() if s != statistics}
    found = probe(network, dataset, tried, device)
    if normalisation != "auto":
        chosen = next(c for c in found.candidates if c.name == chosen_name)
    else:
        chosen = found.choose(told="file")
    if not force:
        shown = len(chosen.predictions)
        try:
            check_plausible(
                chosen.predictions, found.labels[:shown], dataset.classes, proof=not fit.certain
            )
        except UserError as error:
            raise UserError(f"{name} on {dataset.name}: {error}") from error
    card = Card(
        name=name,
        model=fit.model,
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        classes=dataset.num_classes,
        class_names=dataset.classes,
        image_shape=dataset.image_shape,
        mean=chosen.mean,
        std=chosen.std,
        normalisation=chosen.name,
        margin=found.margin(chosen),
        matched=fit.how,
        test_acc=0.0,
        params=count_params(network),
        macs=count_macs(network, dataset.image_shape),
        origin=Path(file).name,
    )
    say(f"input normalisation: {found.report(chosen)}")
    if doubt := found.doubt(chosen):
        say(f"--normalisation {normalisation}: {doubt}")
    folder = teacher_folder(results)
    there = same_teacher(folder, name, network, card, replacing=replacing)
    if there is not None:
        say(f"teacher {name} is there already, and the same")
        return there
    card = card.with_score(Teacher(network, card, device).score(dataset.read_test()))
    card, kept = file_teacher(folder, name, network, card)
    if kept is not None:
        say(f"the teacher that was called {name} is kept as {kept}")
    return card
