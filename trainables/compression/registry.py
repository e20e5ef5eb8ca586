"""The parts of a compression by name, and how a ``+``-joined chain of them is read.

A chain has at most one choice of architecture, in the first place; steps follow in the order in
which they are done. A new part is one file in this folder and one line in `CHOICES` or `STEPS`.
Other packages add theirs under the entry-point group ``kdsweep.steps``. Names are known without
torch; a part's file, and torch with it, is loaded when somebody asks for more.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.registry import Registry
from trainables.settings import Scalar, Setting, settings_of

if TYPE_CHECKING:
    from trainables.compression.step import Choice, Step

    Part = type[Choice] | type[Step]

EXPLICIT = "explicit"
"""The choice of a chain that names none: the student is the network that it is called."""

AMOUNT = "amount"
"""The field of a part's Config that has the part's own name as its key."""

CHOICES = {
    EXPLICIT: "trainables.compression.explicit:Explicit",
    "depth": "trainables.compression.depth:Depth",
    "width": "trainables.compression.width:Width",
    "factor": "trainables.compression.factor:Factor",
}

STEPS = {
    "prune": "trainables.compression.prune:Prune",
    "sparsify": "trainables.compression.sparsify:Sparsify",
    "qat": "trainables.compression.qat:QAT",
    "gpfq": "trainables.compression.gpfq:GPFQ",
    "msq": "trainables.compression.msq:MSQ",
    "rtn": "trainables.compression.rtn:RTN",
    "int8": "trainables.compression.int8:Int8Step",
}

PARTS: Registry[Part] = Registry("compression", "kdsweep.steps", CHOICES | STEPS)
"""Every choice and step, other packages' as well."""


@functools.cache
def part_class(name: str) -> Part:
    """The class of a choice or step.

    Raises:
        UserError: no such part.
    """
    return PARTS[name]


def parse_chain(compression: str) -> tuple[str, tuple[str, ...]]:
    """The choice and the steps of a chain: ``"factor+prune" -> ("factor", ("prune",))``.

    Raises:
        UserError: an unknown part, one named twice, a choice that is not in the first place, or
            two choices.
    """
    names = tuple(part.strip() for part in compression.split("+"))
    for number, name in enumerate(names):
        PARTS.check(name)
        if name in names[:number]:
            raise UserError(f"compression '{compression}': '{name}' is named twice")
    chosen = [name for name in names if is_choice(name)]
    if len(chosen) > 1:
        both = " and ".join(f"'{name}'" for name in chosen)
        raise UserError(f"compression '{compression}': {both} choose the architecture; leave one")
    if not chosen:
        return EXPLICIT, names
    if names[0] != chosen[0]:
        first = "+".join([*chosen, *(name for name in names if name not in chosen)])
        raise UserError(
            f"compression '{compression}': '{chosen[0]}' chooses the architecture and comes "
            f"first: {first}"
        )
    return names[0], names[1:]


def is_choice(name: str) -> bool:
    """Whether a part chooses the architecture.

    Raises:
        UserError: no such part.
    """
    if name in CHOICES or name in STEPS:
        return name in CHOICES
    from trainables.compression.step import Choice

    return issubclass(part_class(name), Choice)


def canonical_chain(compression: str) -> str:
    """The one spelling of a chain: without an ``explicit`` in front of steps."""
    choice, steps = parse_chain(compression)
    return "+".join([*([] if steps and choice == EXPLICIT else [choice]), *steps])


def implied_chain(values: Mapping[str, object]) -> str:
    """The chain of a config that does not say which: that of the one amount that it gives.

    Args:
        values: by key; an amount that is None counts as absent.

    Raises:
        UserError: several amounts are given.
    """
    given = [name for name in PARTS if values.get(name) is not None and _has_amount(name)]
    choices = [name for name in given if is_choice(name)]
    if len(choices) > 1:
        raise UserError(f"compression: {' and '.join(choices)} are both given; choose one")
    if len(given) > 1:
        raise UserError(
            f"compression: {', '.join(given)} are given; say in which order, as in "
            f"compression: {'+'.join(given)}"
        )
    return given[0] if given else EXPLICIT


def _has_amount(name: str) -> bool:
    return AMOUNT in settings_of(part_class(name).Config)


def part_settings(name: str) -> dict[str, Setting]:
    """Every setting of a part by its full key: ``prune``, its amount, and ``prune.criterion``.

    Those of a choice are words for the network that they lead to.
    """
    found = {
        name if key == AMOUNT else f"{name}.{key}": setting
        for key, setting in settings_of(part_class(name).Config).items()
    }
    if not is_choice(name):
        return found
    return {key: dataclasses.replace(setting, role="words") for key, setting in found.items()}


def chain_settings(compression: str) -> dict[str, Setting]:
    """Every setting of a chain by its full key."""
    choice, steps = parse_chain(compression)
    return {key: s for name in (choice, *steps) for key, s in part_settings(name).items()}


def resolve_chain(compression: str, values: Mapping[str, object]) -> dict[str, Scalar]:
    """The settings of a chain, complete and checked.

    Args:
        compression: ``+``-joined parts.
        values: by full key.

    Returns:
        Every setting of the chain by its full key, defaults filled in.

    Raises:
        UserError: a key that no part of the chain has, a value out of its range, or none where
            there is no default.
    """
    settings = chain_settings(compression)
    for key in values:
        if key not in settings:
            raise UserError(f"{key}: has no effect with compression {compression}")
    resolved = {}
    for key, found in settings.items():
        value = values.get(key, found.default)
        if value is None and not found.optional:
            value = found.default
            if value is None:
                raise UserError(f"{key}: compression '{compression}' needs its value")
        resolved[key] = found.check(key, value)
    return resolved


def config_of(name: str, settings: Mapping[str, Scalar]) -> Any:
    """The config of one part of a chain.

    Args:
        name: of the part.
        settings: of the whole chain, as `resolve_chain` returns them.
    """
    fields = {AMOUNT if key == name else key.partition(".")[2]: key for key in part_settings(name)}
    return part_class(name).Config(**{field: settings[key] for field, key in fields.items()})
