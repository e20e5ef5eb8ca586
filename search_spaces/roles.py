"""Several teachers: a study's further ones by role, and which of them a trial's terms read."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.dimension import Value, chooses_teacher, role_keys
from search_spaces.pairs import PAIR
from search_spaces.teacher import UNNAMED, TeacherSpec
from trainables.errors import UserError, unknown
from trainables.methods.registry import OTHERS, PLAIN, TEACHER, roles_read

if TYPE_CHECKING:
    from search_spaces.spec import Study

_ROLE = re.compile(r"[a-z][a-z0-9_]*")
_OTHERWISE = {TEACHER, "student", *TeacherSpec.model_fields}
"""Words that mean something else where a role could stand."""


def check_named(study: "Study") -> None:
    """Whether further teachers stand beside a first one, each a network under the name of a role.

    Raises:
        ValueError: one does not; by key.
    """
    for role, teacher in study.teachers.items():
        if not _ROLE.fullmatch(role) or role in _OTHERWISE:
            raise ValueError(
                f"{OTHERS}{role}: expected a role of your own in lower-case letters, such as wide"
            )
        if not teacher.named:
            raise ValueError(f"{OTHERS}{role}: {UNNAMED}")
        if study.teacher is None and not study.pairs:
            raise ValueError(f"{OTHERS}{role}: stands beside a teacher: add teacher")


def check_roles(study: "Study") -> None:
    """Whether terms read teachers that there are, and no further one is another one again.

    Raises:
        UserError: by key.
    """
    for where, key, value in _chosen(study):
        if value not in (TEACHER, *study.teachers):
            known = unknown("teacher", str(value), [TEACHER, *study.teachers])
            raise UserError(f"{where}.{key}: {known}")
    places: dict[str, str] = {}
    for key, teacher in study.all_teachers().items():
        first = places.setdefault(teacher.label, key)
        if first != key and key.startswith(OTHERS):
            raise UserError(f"{key}: is '{teacher.label}' again, as {first} is; leave it out")


def _chosen(study: "Study") -> Iterator[tuple[str, str, Any]]:
    """Block, key and value of everything that says which teacher a term reads."""
    blocks: dict[str, Mapping[str, Any]] = {"fixed": study.fixed}
    blocks |= {f"pairs.{name}": pair.settings for name, pair in study.pairs.items()}
    for block, settings in blocks.items():
        for key, value in settings.items():
            if chooses_teacher(key) and value is not None:
                yield block, key, value
    for key, dimension in study.dimensions.items():
        if chooses_teacher(key):
            yield from (("dimensions", key, value) for value in dimension.ends())


def others_of(study: "Study", values: Mapping[str, Any]) -> dict[str, str]:
    """The further teachers of a trial: the names of those that its terms read, by full key.

    Args:
        study: says them.
        values: of the trial, by the keys of a study.

    Raises:
        UserError: an unknown method.
    """
    if not study.teachers:
        return {}
    roles = roles_read(_method(values), values, study.teachers)
    return {f"{OTHERS}{role}": study.teachers[role].label for role in roles}


def roles_of_trials(study: "Study") -> list[str]:
    """The further teachers of a study that some of its trials read."""
    found: set[Value] = set()
    if study.sampler == "points":
        for values in _listed(study):
            found.update(roles_read(_method(values), values, study.teachers))
        return [role for role in study.teachers if role in found]
    for pair in study.pairs or [None]:
        for method in _ends(study, "method", pair):
            found.update(roles_read(str(method), {}, study.teachers))
            for key in role_keys(str(method)):
                found.update(_ends(study, key, pair))
    return [role for role in study.teachers if role in found]


def check_read(study: "Study", key: str) -> None:
    """Refuses a further teacher that no trial reads.

    Args:
        study: one that is checked otherwise.
        key: the teacher's, or that of one of its settings: ``teachers.wide.epochs``.

    Raises:
        UserError: by the teacher's key.
    """
    role = key.removeprefix(OTHERS).partition(".")[0]
    if role in study.teachers and role not in roles_of_trials(study):
        if study.sampler == "points":
            methods = {_method(values) for values in _listed(study)}
        else:
            asked = (_ends(study, "method", pair) for pair in study.pairs or [None])
            methods = {str(method) for ends in asked for method in ends}
        listed = ", ".join(sorted(methods))
        raise UserError(
            f"{OTHERS}{role}: has no effect with method {listed}"[:150]
            + f"; a term reads it by TERM.teacher: {role}, mkd reads all"
        )


def _listed(study: "Study") -> Iterator[dict[str, Any]]:
    """The settings of every listed point."""
    for point in map(study.space.corner, study.first_points()):
        yield {**study.shared(point.get(PAIR)), **point}


def _method(values: Mapping[str, Any]) -> str:
    return str(values.get("method") or PLAIN)


def _ends(study: "Study", key: str, pair: str | None) -> list[Value]:
    """The values of a setting among the trials of a pair; none where nobody says any."""
    if key in study.dimensions:
        return study.dimensions[key].ends()
    value = study.shared(pair).get(key, PLAIN if key == "method" else None)
    return [] if value is None else [value]
