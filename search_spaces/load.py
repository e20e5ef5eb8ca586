"""Reading studies: the shipped ones by name, a user's own by path; overrides from the shell."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search_spaces.checks import check_effective, check_study, check_written
from search_spaces.dimension import bare_name, layered, setting_of
from search_spaces.pairs import PAIR, spelled_out
from search_spaces.reading import read_yaml
from search_spaces.spec import Study
from search_spaces.teacher import TeacherSpec, as_teacher
from trainables.errors import UserError, unknown
from trainables.methods.registry import OTHERS

_UNION_MEMBERS = ("bool", "int", "float", "str")

SHIPPED = Path(__file__).parent

NOTES = "kdsweep"
"""Key under which a sweep's own ``study.yaml`` has what the sweep found; no part of the study."""


def study_names() -> list[str]:
    """The shipped studies."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_study(name: str, overrides: Iterable[str] = ()) -> Study:
    """A study, checked.

    Args:
        name: a shipped study (``digits``), or the path of a YAML file: also of the ``study.yaml``
            of a sweep.
        overrides: ``KEY=VALUE`` each, as `override` reads them.

    Raises:
        UserError: no such study, or the first mistake in it, by key.
    """
    assignments = list(overrides)
    study = parse_study(override(_read(name), assignments))
    check_written(study)
    # A file may say more than what the shell leaves of its methods needs.
    said = [text.partition("=")[0] for text in assignments]
    further = [f"{OTHERS}{role}" for role in study.teachers]
    check_effective(study, said or [*study.fixed, *study.dimensions, *further])
    return study


def known_study(name: str) -> Study:
    """A study to be shown. A shipped one is known to be sound, and is not checked again.

    Raises:
        UserError: as `load_study`.
    """
    return formed_study(override(_read(name), ())) if name in study_names() else load_study(name)


def _read(name: str) -> dict[str, Any]:
    """The content of a study's file."""
    path = Path(name)
    if name in study_names():
        path = SHIPPED / f"{name}.yaml"
    elif path.suffix not in (".yaml", ".yml"):
        raise unknown("study", name, study_names())
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"study '{name}' cannot be read: {error.strerror}") from error
    content = read_yaml(text, f"study '{name}'")
    if not isinstance(content, dict):
        raise UserError(f"study '{name}': expected keys and values")
    content.pop(NOTES, None)
    content.setdefault("name", path.stem)
    return content


def parse_study(content: Mapping[str, Any]) -> Study:
    """The study of a parsed YAML file.

    Raises:
        UserError: the first mistake, by key.
    """
    study = formed_study(content)
    check_study(study)
    return study


def formed_study(content: Mapping[str, Any]) -> Study:
    """The study of a parsed YAML file that was checked before: methods are not loaded.

    Raises:
        UserError: it has not the form of a study.
    """
    try:
        return Study.model_validate(dict(content))
    except ValidationError as error:
        raise _first_mistake(error) from error


def override(content: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A study's content with values set from the shell.

    ``KEY=VALUE`` fixes a setting of all trials: it replaces a dimension of that name, also in
    ``cover`` and ``points``, and the own value of every pair and every teacher, so that
    ``epochs=1`` makes everything short. ``teacher.KEY=VALUE`` goes to the teacher alone, or to
    those of all pairs; ``teacher.teacher.KEY`` to the teacher's teacher; ``teacher.name=NAME``
    takes an imported one instead of training one. ``teachers.ROLE.KEY=VALUE`` does the same to a
    further teacher, ``teachers.ROLE=MODEL`` gives another one. ``pair=NAME`` leaves one pair; the
    study's own fields (``trials``, ``repeats``, ``sampler``, ``dataset``...) are set by their
    names. Values are YAML.
    """
    content = _blocks(content)
    fixed: set[str] = set()
    for assignment in assignments:
        key, value = assigned(assignment)
        if key.startswith("teacher."):
            _give_teacher(content["teacher"], key.removeprefix("teacher."), value)
            for pair in content["pairs"].values():
                _take_from_teacher(pair, key.removeprefix("teacher."))
        elif key.startswith(OTHERS):
            _give_further(content["teachers"], key, value)
        elif key == "teachers":
            raise UserError("teachers: are set one by one: teachers.ROLE=MODEL")
        elif key == PAIR:
            content["pairs"] = _chosen(content["pairs"], str(value))
            fixed.add(key)
        elif key in Study.model_fields and key not in _BLOCKS:
            content[key] = value
        else:
            setting_of(key)
            content["fixed"][key] = value
            fixed.add(key)
            content["dimensions"].pop(key, None)
            _take_from_teacher(content, key)
            content["teachers"] = {
                role: _less(teacher, key) for role, teacher in content["teachers"].items()
            }
            for name, pair in content["pairs"].items():
                _take_from_teacher(pair, key)
                if any(_means(key, own) or _means(own, key) for own in pair):
                    content["pairs"][name] = layered(pair, {key: value})
    if isinstance(content["cover"], list):
        content["cover"] = [key for key in content["cover"] if key not in fixed]
    if isinstance(content.get("points"), list):
        content["points"] = _points_without(content["points"], fixed)
    content["teacher"] = content["teacher"] or None
    return content


_BLOCKS = ("fixed", "dimensions", "teacher", "teachers", "pairs")


def _blocks(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a study's content in which every block is there, and pairs are spelled out."""
    copied = {**content}
    for key in (*_BLOCKS, "cover"):
        kind: type = list if key == "cover" else dict
        value = copied.get(key) or kind()
        value = as_teacher(value) if key == "teacher" else value
        if not isinstance(value, kind):
            expected = "keys and values" if kind is dict else "a list"
            raise UserError(f"study: {key}: expected {expected}, got {value!r}")
        copied[key] = copy.deepcopy(value)
    copied["pairs"] = spelled_out(copied["pairs"])
    for name, pair in copied["pairs"].items():
        if not isinstance(pair, dict):
            raise UserError(f"study: pairs.{name}: expected keys and values, got {pair!r}")
    return copied


def _chosen(pairs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The one pair of this name."""
    if not pairs:
        raise UserError("pair: the study has no pairs")
    if name not in pairs:
        raise unknown("pair", name, map(str, pairs))
    return {name: pairs[name]}


def _give_teacher(teacher: dict[str, Any], key: str, value: Any) -> None:
    """Sets ``KEY`` of a teacher, or ``teacher.KEY`` of its own."""
    if key.startswith("teacher."):
        teacher["teacher"] = upper = as_teacher(teacher.get("teacher") or {})
        if isinstance(upper, dict):
            _give_teacher(upper, key.removeprefix("teacher."), value)
    else:
        # One that is there already takes the place of the recipe of one.
        for name in [name for name in teacher if key == "name" or _means(key, name)]:
            del teacher[name]
        teacher[key] = value


def _give_further(teachers: dict[str, Any], key: str, value: Any) -> None:
    """Sets ``teachers.ROLE.KEY``, or by ``teachers.ROLE`` a whole teacher; None leaves it out."""
    role, _, own = key.removeprefix(OTHERS).partition(".")
    if not own:
        teachers.pop(role, None)
        if value is not None:
            teachers[role] = value
        return
    if role not in teachers and own not in ("model", "name"):
        raise unknown("key", key, [f"{OTHERS}{known}.{own}" for known in teachers])
    teachers[role] = teacher = as_teacher(teachers.get(role) or {})
    if isinstance(teacher, dict):
        _give_teacher(teacher, own, value)


def _take_from_teacher(block: dict[str, Any], key: str) -> None:
    """Removes a setting from the teacher of a block, and from those above it."""
    if "teacher" in block:
        block["teacher"] = _less(block["teacher"], key)


def _less(teacher: Any, key: str) -> Any:
    """A teacher without a setting, and so those above it."""
    if not isinstance(teacher, dict) or key in TeacherSpec.model_fields:
        return teacher
    less = {name: value for name, value in teacher.items() if not _means(key, name)}
    _take_from_teacher(less, key)
    return less


def _means(key: str, name: str) -> bool:
    """Whether a setting's name is the key, or the key's full form."""
    return name == key or bare_name(name) == key


def _points_without(points: list[Any], keys: set[str]) -> list[Any]:
    """Points without what is fixed for all of them; those that differed in that alone are one.

    Two that were the same before stay two: that is the user's mistake.
    """
    kept: list[tuple[Any, Any]] = []
    for point in points:
        left = _without(point, keys)
        if not any(left == other and point != whole for whole, other in kept):
            kept.append((point, left))
    return [left for _, left in kept]


def _without(point: Any, keys: set[str]) -> Any:
    if not isinstance(point, dict):
        return point
    return {key: value for key, value in point.items() if key not in keys}


def assigned(text: str) -> tuple[str, Any]:
    """The key and the value of ``KEY=VALUE``, which is YAML.

    Raises:
        UserError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: expected KEY=VALUE")
    try:
        return key, read_yaml(value, "the value")
    except UserError as error:
        raise UserError(f"--set {text[:80]}: {error}"[:280]) from error


def _first_mistake(error: ValidationError) -> UserError:
    """Pydantic's first complaint as one line that names the key."""
    first = error.errors()[0]
    places = [str(part) for part in first["loc"]]
    if places and places[-1] in _UNION_MEMBERS:  # pydantic names the type that it tried last
        return UserError(f"study: {'.'.join(places[:-1])}: expected a single value")
    where = ".".join(places)
    if first["type"] == "extra_forbidden":
        parent = first["loc"][:-1]
        known = (
            list(Study.model_fields)
            if not parent
            else ["choices", "low", "high", "log", "step", "when"]
        )
        prefix = ".".join(str(part) for part in parent)
        return unknown(f"key in study {prefix}".strip(), str(first["loc"][-1]), known)
    if first["type"] == "missing":
        return UserError(f"study: key '{where}' is missing")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("model_type", "dict_type"):
        message = "expected keys and values"
        if places[:1] == ["dimensions"] and len(places) > 1:
            message = "expected a list of choices, or low and high"
    return UserError(f"study{': ' + where if where else ''}: {message}")
