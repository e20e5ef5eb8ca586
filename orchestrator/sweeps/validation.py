"""Whether the trials of a study have validation images, where something is decided by them."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from search_spaces.spec import Study
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.labels import class_counts
from trainables.data.notes import listed, say_notes
from trainables.data.split import enough_for_each
from trainables.errors import UserError
from trainables.settings import settings_of
from trainables.tasks.registry import TASKS

_KEY = "val_fraction"


def check_validation(study: Study, dataset: Callable[[], Dataset], needed_by: str | None) -> None:
    """Every fraction that a trial may hold out leaves images on either side.

    Where some classes have no validation image and others have, one line says so.

    Args:
        study: what is tried.
        dataset: gives its data; not asked where the study alone is mistaken.
        needed_by: the key that needs validation images, for example ``objectives.val_acc``; None
            where nothing is decided by them: that there are none is said then, not refused.

    Raises:
        UserError: no image would be held out, or none be left; it says which fraction would do.
    """
    fractions = dict(_fractions(study))
    for where, values in fractions.items():
        if needed_by and 0 in values:
            place = where.removesuffix(_KEY).rstrip(".")
            at = f" in {place}" if place else ""
            raise UserError(f"{needed_by}: {_KEY} is 0{at}, so that no trial has it")
    if not any(value for values in fractions.values() for value in values):
        return
    data = dataset()
    for where, values in fractions.items():
        for value in values:
            _check(where, value, data, needed_by)
    lowest = min(value for values in fractions.values() for value in values if value)
    counts = class_counts(data.train.labels, data.num_classes).tolist()
    out = class_counts(data.train.labels[_held_out(data, lowest)], data.num_classes).tolist()
    without = [
        name
        for name, count, held in zip(data.classes, counts, out, strict=True)
        if count and not held
    ]
    if without:
        verb = "has" if len(without) == 1 else "have"
        note = (
            f"warning: {len(without):,} of {data.num_classes:,} classes {verb} no validation image "
            f"at {_KEY} {lowest:g}: {listed(without)}{_better(data)}"
        )
        say_notes(data.name, [note])


def _fractions(study: Study) -> Iterator[tuple[str, list[float]]]:
    """Where the study says what is held out, and all that it may be there."""
    if _KEY in study.dimensions:
        yield f"dimensions.{_KEY}", [float(end) for end in study.dimensions[_KEY].ends()]
        if not study.dimensions[_KEY].when:
            return
    for pair in study.pairs or [None]:
        given = study.shared(pair).get(_KEY)
        value: Any = settings_of(TrialConfig)[_KEY].default if given is None else given
        own = pair is not None and _KEY in study.pairs[pair].settings
        yield f"pairs.{pair}.{_KEY}" if own else _KEY, [float(value)]


def _held_out(data: Dataset, fraction: float) -> Tensor:
    """The images that are held out under some seed; how many of a class, none decides, or by
    an image where they are of several."""
    return TASKS[data.task].split(data.train.labels, fraction, 0)[1]


def _check(where: str, fraction: float, data: Dataset, needed_by: str | None) -> None:
    out, total = len(_held_out(data, fraction)), len(data.train)
    most = int(class_counts(data.train.labels, data.num_classes).max())
    images = f"{total:,} training images ({most:,} of a class at most)"
    if out == total:
        raise UserError(f"{where}: {fraction:g} leaves none of {images} to train on{_better(data)}")
    if not out and needed_by:
        raise UserError(
            f"{where}: {fraction:g} holds out none of {images}, and {needed_by} needs some"
            f"{_better(data)}"
        )


def _better(data: Dataset) -> str:
    if data.train.labels.ndim > 1:
        return ""  # images of several classes: one that is held out counts for all of them
    counts = class_counts(data.train.labels, data.num_classes).tolist()
    fraction = enough_for_each(counts)
    if fraction is None:
        return "; no fraction will do: no class has two images"
    single = " that has several" if 1 in counts else ""
    return f"; {_KEY} {fraction:g} holds out one of every class{single} at least"
