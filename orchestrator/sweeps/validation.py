"""Whether the trials of a study have validation images, where something is decided by them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from search_spaces.spec import Study
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.notes import listed, say_notes
from trainables.data.split import enough_for_each, held_out
from trainables.errors import UserError
from trainables.settings import settings_of

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
    counts = torch.bincount(data.train.labels, minlength=data.num_classes).tolist()
    for where, values in fractions.items():
        for value in values:
            _check(where, value, counts, needed_by)
    lowest = min(value for values in fractions.values() for value in values if value)
    out = held_out(counts, lowest)
    without = [
        name
        for name, count, held in zip(data.classes, counts, out, strict=True)
        if count and not held
    ]
    if without:
        verb = "has" if len(without) == 1 else "have"
        note = (
            f"warning: {len(without):,} of {data.num_classes:,} classes {verb} no validation image "
            f"at {_KEY} {lowest:g}: {listed(without)}{_better(counts)}"
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


def _check(where: str, fraction: float, counts: Sequence[int], needed_by: str | None) -> None:
    out, total = sum(held_out(counts, fraction)), sum(counts)
    images = f"{total:,} training images ({max(counts):,} of a class at most)"
    if out == total:
        raise UserError(
            f"{where}: {fraction:g} leaves none of {images} to train on{_better(counts)}"
        )
    if not out and needed_by:
        raise UserError(
            f"{where}: {fraction:g} holds out none of {images}, and {needed_by} needs some"
            f"{_better(counts)}"
        )


def _better(counts: Sequence[int]) -> str:
    fraction = enough_for_each(counts)
    if fraction is None:
        return "; no fraction will do: no class has two images"
    single = " that has several" if 1 in counts else ""
    return f"; {_KEY} {fraction:g} holds out one of every class{single} at least"
