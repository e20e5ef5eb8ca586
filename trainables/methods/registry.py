"""The terms and modifiers by name, and how a ``+``-joined method is read.

A new one is one file in this folder and one line in `TERMS`. Other packages add terms
under the entry-point group ``kdsweep.terms``.
"""

import functools
import importlib
import importlib.metadata

from trainables.errors import UserError, unknown
from trainables.methods.term import InputModifier, LogitModifier, Term

Part = type[Term] | type[LogitModifier] | type[InputModifier]

PLAIN = "student"
"""The method without a teacher: cross-entropy alone."""

TERMS = {
    "at": "trainables.methods.at:AT",
    "crd": "trainables.methods.crd:CRD",
    "dist": "trainables.methods.dist:DIST",
    "dkd": "trainables.methods.dkd:DKD",
    "dml": "trainables.methods.dml:DML",
    "fitnet": "trainables.methods.fitnet:FitNet",
    "kd": "trainables.methods.kd:KD",
    "ls": "trainables.methods.ls:LS",
    "mixup": "trainables.methods.mixup:Mixup",
    "reviewkd": "trainables.methods.reviewkd:ReviewKD",
    "rkd": "trainables.methods.rkd:RKD",
    "skip": "trainables.methods.skip:Skip",
    "sp": "trainables.methods.sp:SP",
    "srd": "trainables.methods.srd:SRD",
    "srd_dist": "trainables.methods.srd_dist:SRDDIST",
    "srd_kl": "trainables.methods.srd_kl:SRDKL",
    "srd_pmse": "trainables.methods.srd_pmse:SRDPMSE",
    "ttm": "trainables.methods.ttm:TTM",
    "wttm": "trainables.methods.ttm:WTTM",
}


def term_names() -> list[str]:
    """Every registered term and modifier, sorted."""
    return sorted({**TERMS, **_plugins()})


@functools.cache
def term_class(name: str) -> Part:
    """The class of a term or modifier.

    Raises:
        UserError: no such term.
    """
    places = {**_plugins(), **TERMS}
    if name not in places:
        raise unknown("method", name, [PLAIN, *places])
    module, _, attribute = places[name].partition(":")
    found: Part = getattr(importlib.import_module(module), attribute)
    return found


def parse_method(method: str) -> tuple[str, ...]:
    """The terms of a method: ``"kd+at" -> ("kd", "at")``, ``"student" -> ()``.

    Raises:
        UserError: an unknown term, one named twice, ``student`` beside another, a modifier
            of logits without a term that it could change, or a term that needs the one true
            class of an image beside a modifier that mixes labels.
    """
    if method == PLAIN:
        return ()
    names = tuple(part.strip() for part in method.split("+"))
    for name in names:
        if name == PLAIN:
            raise UserError(f"method '{method}': '{PLAIN}' is cross-entropy alone; leave it out")
        term_class(name)
    if len(set(names)) < len(names):
        raise UserError(f"method '{method}': a term is named twice")
    kinds = [term_class(name) for name in names]
    _check_labels(method, names)
    if not any(issubclass(kind, Term) and kind.reads_softmax() for kind in kinds):
        for name, kind in zip(names, kinds, strict=True):
            if issubclass(kind, LogitModifier):
                raise UserError(
                    f"method '{method}': '{name}' changes the logits that another term reads; "
                    f"join it with a term that has a softmax: kd+{name}"
                )
    return names


def _check_labels(method: str, names: tuple[str, ...]) -> None:
    kinds = {name: term_class(name) for name in names}
    mixing = [
        n for n, kind in kinds.items() if issubclass(kind, InputModifier) and kind.mixes_labels
    ]
    for name, kind in kinds.items():
        if mixing and issubclass(kind, Term) and kind.one_label:
            raise UserError(
                f"method '{method}': '{name}' reads the one true class of an image, "
                f"'{mixing[0]}' gives it two; leave one of them out"
            )


def needs_teacher(method: str) -> bool:
    """Whether a method reads anything of a teacher."""
    return any(term_class(name).needs for name in parse_method(method))


def canonical_method(method: str) -> str:
    """The one spelling of a method: its terms sorted, so that kd+at and at+kd are the same."""
    names = parse_method(method)
    # kd first: the order in which the field writes combinations.
    return "+".join(sorted(names, key=lambda name: (name != "kd", name))) if names else PLAIN


@functools.cache
def _plugins() -> dict[str, str]:
    found = importlib.metadata.entry_points(group="kdsweep.terms")
    return {point.name: point.value for point in found}
