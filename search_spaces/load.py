"""Reading studies: the shipped ones by name, a user's own by path; overrides from the shell."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from search_spaces.spec import Study, setting_of
from trainables.errors import UserError, unknown

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
    except yaml.YAMLError as error:
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
        raise _first_mistake(error, content) from error
    study.check()
    return study


def override(content: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A study's content with values set from the shell.

    ``KEY=VALUE`` fixes a setting of all trials: it replaces a dimension of that name, and the
    teacher's own value, so that ``epochs=1`` makes everything short. ``teacher.KEY=VALUE``
    goes to the teacher alone; the study's own fields (``trials``, ``repeats``, ``sampler``,
    ``dataset``...) are set by their names. Values are YAML.
    """
    content = {**content}
    for key in ("fixed", "dimensions"):
        content[key] = dict(content.get(key) or {})
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set {assignment}: expected KEY=VALUE")
        value = yaml.safe_load(text)
        if key.startswith("teacher."):
            content["teacher"] = {**(content.get("teacher") or {}), key[8:]: value}
        elif key in Study.model_fields and key not in ("fixed", "dimensions", "teacher"):
            content[key] = value
        else:
            setting_of(key)
            content["fixed"][key] = value
            content["dimensions"].pop(key, None)
            content["cover"] = [entry for entry in content.get("cover") or [] if entry != key]
            if isinstance(content.get("teacher"), dict):
                content["teacher"] = {k: v for k, v in content["teacher"].items() if k != key}
    return content


def _first_mistake(error: ValidationError, content: Mapping[str, Any]) -> UserError:
    """Pydantic's first complaint as one line that names the key."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
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
    return UserError(f"study{': ' + where if where else ''}: {message}")
