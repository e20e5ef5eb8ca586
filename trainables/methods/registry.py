"""The terms and modifiers by name, and how a ``+``-joined method is read.

A new one is one file in this folder and one line in `TERMS` (and its name in `WITHOUT_TEACHER`,
if it reads none). Other packages add terms under the entry-point group ``kdsweep.terms``. Names are
known without torch; a term's file, and torch with it, is loaded when somebody asks for more.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError, unknown
from trainables.registry import Registry
from trainables.settings import Scalar, Setting, read, settings_of

if TYPE_CHECKING:
    from trainables.methods.term import InputModifier, LogitModifier, Term

    Part = type[Term] | type[LogitModifier] | type[InputModifier]

PLAIN = "student"
"""The method without a teacher: cross-entropy alone."""

TEACHER = "teacher"
"""The role of the first teacher of a trial. It is also how a term's setting is called that says
which of several teachers it reads: ``at.teacher``."""

OTHERS = "teachers."
"""Before the role of a further teacher in its key: ``teachers.wide``."""

_OF_WHOM = Setting(
    kind=str,
    optional=False,
    default=TEACHER,
    help="which of several teachers it reads, by role",
    implied=(TEACHER,),
)

TERMS = {
    "at": "trainables.methods.at:AT",
    "crd": "trainables.methods.crd:CRD",
    "dist": "trainables.methods.dist:DIST",
    "dkd": "trainables.methods.dkd:DKD",
    "dml": "trainables.methods.dml:DML",
    "ewa": "trainables.methods.ewa:EWA",
    "fitnet": "trainables.methods.fitnet:FitNet",
    "ig": "trainables.methods.ig:IG",
    "kd": "trainables.methods.kd:KD",
    "ls": "trainables.methods.ls:LS",
    "mkd": "trainables.methods.mkd:MKD",
    "mixup": "trainables.methods.mixup:Mixup",
    "reviewkd": "trainables.methods.reviewkd:ReviewKD",
    "rkd": "trainables.methods.rkd:RKD",
    "skip": "trainables.methods.skip:Skip",
    "sp": "trainables.methods.sp:SP",
    "srd": "trainables.methods.srd:SRD",
    "srd_dist": "trainables.methods.srd_dist:SRDDIST",
    "srd_kl": "trainables.methods.srd_kl:SRDKL",
    "srd_pmse": "trainables.methods.srd_pmse:SRDPMSE",
    "sswa": "trainables.methods.sswa:SSWA",
    "swa": "trainables.methods.swa:SWA",
    "ttm": "trainables.methods.ttm:TTM",
    "wttm": "trainables.methods.ttm:WTTM",
}

PARTS: Registry[Part] = Registry("method", "kdsweep.terms", TERMS, also=(PLAIN,))
"""Every term and modifier, other packages' as well."""

WITHOUT_TEACHER = frozenset({"dml", "mixup"})
"""Those of `TERMS` that read nothing of a teacher; others say it when they are loaded."""


def term_names() -> list[str]:
    """Every registered term and modifier, sorted."""
    return sorted(PARTS)


@functools.cache
def term_class(name: str) -> Part:
    """The class of a term or modifier.

    Raises:
        UserError: no such term.
    """
    return PARTS[name]


def parse_method(method: str) -> tuple[str, ...]:
    """The terms of a method: ``"kd+at" -> ("kd", "at")``, ``"student" -> ()``.

    Raises:
        UserError: an unknown term, one named twice, ``student`` beside another, a modifier
            of logits without a term that it could change, or a term that needs the one true
            class of an image beside a modifier that mixes labels.
    """
    names = _names(method)
    if names:
        _check_together(method, names)
    return names


def _names(method: str) -> tuple[str, ...]:
    """The terms of a method; whether they go together is not looked at."""
    if method == PLAIN:
        return ()
    names = tuple(part.strip() for part in method.split("+"))
    for name in names:
        if name == PLAIN:
            raise UserError(f"method '{method}': '{PLAIN}' is cross-entropy alone; leave it out")
        PARTS.check(name)
    if len(set(names)) < len(names):
        raise UserError(f"method '{method}': a term is named twice")
    return names


def _check_together(method: str, names: tuple[str, ...]) -> None:
    from trainables.methods.term import InputModifier, LogitModifier, Term

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
    if not any(issubclass(kind, Term) and kind.reads_softmax() for kind in kinds.values()):
        for name, kind in kinds.items():
            if issubclass(kind, LogitModifier):
                raise UserError(
                    f"method '{method}': '{name}' changes the logits that another term reads; "
                    f"join it with a term that has a softmax: kd+{name}"
                )


def needs_teacher(method: str) -> bool:
    """Whether a method reads anything of a teacher.

    Raises:
        UserError: an unknown term, or one named twice.
    """
    return any(_reads_teacher(name) for name in _names(method))


def _reads_teacher(name: str) -> bool:
    if name in TERMS:
        return name not in WITHOUT_TEACHER
    kind = term_class(name)
    return bool(kind.needs) or getattr(kind, "reads_maps", False)


def canonical_method(method: str) -> str:
    """The one spelling of a method: its terms sorted, so that kd+at and at+kd are the same."""
    names = parse_method(method)
    # kd first: the order in which the field writes combinations.
    return "+".join(sorted(names, key=lambda name: (name != "kd", name))) if names else PLAIN


def method_settings(method: str) -> dict[str, Setting]:
    """Every setting of a method by its full key, for example ``kd.temperature``."""
    return {key: one for name in parse_method(method) for key, one in term_settings(name).items()}


def term_settings(name: str) -> dict[str, Setting]:
    """Every setting of a term by its full key: those of its Config, and which teacher it reads.

    A term with a setting of its own of that name has that one, and reads the first teacher.

    Raises:
        UserError: no such term.
    """
    own = {f"{name}.{key}": one for key, one in settings_of(term_class(name).Config).items()}
    return {**own, f"{name}.{TEACHER}": _OF_WHOM} if _reads_one(name) else own


def _reads_one(name: str) -> bool:
    """Whether a term reads one teacher, and a setting says which."""
    from trainables.methods.term import Term

    kind = term_class(name)
    chooses = (
        issubclass(kind, Term) and not kind.reads_all and TEACHER not in settings_of(kind.Config)
    )
    return chooses and _reads_teacher(name)


def role_of(name: str, settings: Mapping[str, Scalar]) -> str:
    """Which teacher a term reads that reads one.

    Args:
        name: of the term.
        settings: of its method, by full key.
    """
    return str(settings.get(f"{name}.{TEACHER}", TEACHER)) if _reads_one(name) else TEACHER


def roles_read(
    method: str, settings: Mapping[str, Scalar], roles: Iterable[str]
) -> tuple[str, ...]:
    """Those of the further teachers that a method reads anything of.

    Args:
        method: ``+``-joined terms.
        settings: of it, by full key.
        roles: of the further teachers that there are.
    """
    names = parse_method(method)
    read = {role_of(name, settings) for name in names}
    every = any(getattr(term_class(name), "reads_all", False) for name in names)
    return tuple(role for role in roles if every or role in read)


def check_roles(method: str, settings: Mapping[str, Scalar], roles: Collection[str]) -> None:
    """Refuses terms that read a teacher which there is not, and teachers that no term reads.

    Args:
        method: ``+``-joined terms.
        settings: as `resolve_settings` returns them.
        roles: of the further teachers of a trial.

    Raises:
        UserError: by key.
    """
    for name in parse_method(method):
        if (role := role_of(name, settings)) not in (TEACHER, *roles):
            raise UserError(f"{name}.{TEACHER}: {unknown('teacher', role, [TEACHER, *roles])}")
    for role in roles:
        if role not in roles_read(method, settings, roles):
            raise UserError(f"{OTHERS}{role}: no term of method '{method}' reads this teacher")


def without_roles(method: str, settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The settings of a method, less those that say which teacher a term reads."""
    said = {f"{name}.{TEACHER}" for name in parse_method(method) if _reads_one(name)}
    return {key: value for key, value in settings.items() if key not in said}


def resolve_settings(method: str, values: Mapping[str, object]) -> dict[str, Scalar]:
    """The settings of a method, complete and checked.

    Args:
        method: ``+``-joined terms.
        values: by full key (``kd.temperature``), or by a bare name (``temperature``), which
            goes to every term of the method that has such a setting; the full key wins.

    Returns:
        Every setting of the method by its full key, defaults filled in.

    Raises:
        UserError: a key that no term of the method has, or a value out of its range.
    """
    settings = method_settings(method)
    bare = {key.partition(".")[2] for key in settings}
    for key in values:
        if key not in settings and key not in bare:
            raise unknown(f"key for method '{method}'", key, [*settings, *bare])
    resolved = {}
    for full, found in settings.items():
        short = full.partition(".")[2]
        if full in values:
            resolved[full] = found.check(full, values[full])
        elif short in values:
            resolved[full] = found.check(short, values[short])
        else:
            resolved[full] = found.default
    return resolved


def config_of(name: str, settings: Mapping[str, Scalar]) -> Any:
    """The config of one term of a method.

    Args:
        name: of the term.
        settings: of the whole method, as `resolve_settings` returns them.

    Raises:
        UserError: a setting that the term does not have, or out of its range.
    """
    kind, start = term_class(name).Config, name + "."
    own = {key: value for key, value in settings.items() if key.startswith(start)}
    if _reads_one(name):
        own.pop(start + TEACHER, None)
    values = {key.removeprefix(start): value for key, value in own.items()}
    return kind(**read(kind, values, prefix=start))


def peer_models(method: str, settings: Mapping[str, Scalar]) -> dict[str, str | None]:
    """The networks that learn beside a method's student, by term and name: ``dml.1``.

    Args:
        method: ``+``-joined terms.
        settings: as `resolve_settings` returns them.

    Returns:
        Their models, None for the student's own, in the order in which they learn.
    """
    from trainables.methods.term import Term

    kinds = {name: term_class(name) for name in parse_method(method)}
    return {
        f"{name}.{own}": model
        for name, kind in kinds.items()
        if issubclass(kind, Term)
        for own, model in kind.peers(config_of(name, settings)).items()
    }
