"""Reading studies: the shipped ones by name, a user's own by path; overrides from the shell."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from search_spaces.dimension import setting_of
from search_spaces.spec import Study
from trainables.errors import UserError, unknown

_UNION_MEMBERS = ("bool", "int", "float", "str")

SHIPPED = Path(__file__).parent


def study_names() -> list[str]:
    """The shipped studies."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_study(name: str, overrides: Iterable[str] = ()) -> Study:
    """A study, checked.

    Args:
        name: a shipped study (``digits``), or the path of a YAML file.
        overrides: ``KEY=VALUE`` each, as `override` reads them.

    Raises:
        UserError: no such study, or the first mistake in it, by key.
    """
    path = Path(name)
    if name in study_names():
        path = SHIPPED / f"{name}.yaml"
    elif path.suffix not in (".yaml", ".yml"):
        raise unknown("study", name, study_names())
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"study '{name}' cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"study '{name}' is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"study '{name}': expected keys and values")
    content.setdefault("name", path.stem)
    return parse_study(override(content, overrides))


def parse_study(content: Mapping[str, Any]) -> Study:
    """The study of a parsed YAML file.

    Raises:
        UserError: the first mistake, by key.
    """
    try:
        study = Study.model_validate(dict(content))
    except ValidationError as error:
        raise _first_mistake(error) from error
    study.check()
    return study


def override(content: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A study's content with values set from the shell.

    ``KEY=VALUE`` fixes a setting of all trials: it replaces a dimension of that name, also in
    ``cover`` and ``points``, and the teacher's own value, so that ``epochs=1`` makes everything
    short. ``teacher.KEY=VALUE`` goes to the teacher alone; the study's own fields (``trials``,
    ``repeats``, ``sampler``, ``dataset``...) are set by their names. Values are YAML.
    """
    content = {**content}
    for key, kind in (("fixed", dict), ("dimensions", dict), ("teacher", dict), ("cover", list)):
        content[key] = content.get(key) or kind()
        if not isinstance(content[key], kind):
            expected = "keys and values" if kind is dict else "a list"
            raise UserError(f"study: {key}: expected {expected}, got {content[key]!r}")
        content[key] = kind(content[key])
    fixed: set[str] = set()
    for assignment in assignments:
        key, value = _assignment(assignment)
        if key.startswith("teacher."):
            content["teacher"][key.removeprefix("teacher.")] = value
        elif key in Study.model_fields and key not in ("fixed", "dimensions", "teacher"):
            content[key] = value
        else:
            setting_of(key)
            content["fixed"][key] = value
            fixed.add(key)
            content["dimensions"].pop(key, None)
            content["teacher"].pop(key, None)
    if isinstance(content["cover"], list):
        content["cover"] = [key for key in content["cover"] if key not in fixed]
    if isinstance(content.get("points"), list):
        content["points"] = [_without(point, fixed) for point in content["points"]]
    content["teacher"] = content["teacher"] or None
    return content


def _without(point: Any, keys: set[str]) -> Any:
    if not isinstance(point, dict):
        return point
    return {key: value for key, value in point.items() if key not in keys}


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: expected KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is no YAML") from error


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
    if first["type"] == "model_type":
        message = "expected a list of choices, or low and high"
    return UserError(f"study{': ' + where if where else ''}: {message}")
