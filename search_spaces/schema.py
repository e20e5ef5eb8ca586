"""The JSON schema of a study file, for editors that complete and check while one types."""

from typing import Any

from search_spaces.spec import OF_STUDY, TRAINING, Study
from trainables.config import TrialConfig
from trainables.methods.registry import term_class, term_names
from trainables.settings import Setting, settings_of

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def study_schema() -> dict[str, Any]:
    """The schema, with every setting's meaning, default and range."""
    schema = Study.model_json_schema()
    schema["title"] = "kdsweep study"
    schema["required"] = [key for key in schema["required"] if key != "name"]
    settings = _all_settings()
    values = {key: _value(setting) for key, setting in settings.items()}
    properties = schema["properties"]
    properties["fixed"] |= {"properties": values, "additionalProperties": False}
    teacher = schema["$defs"]["TeacherSpec"]
    teacher["properties"] |= {key: values[key] for key in TRAINING}
    teacher["additionalProperties"] = False
    dimension = {"anyOf": [{"$ref": "#/$defs/Dimension"}, {"type": "array", "minItems": 1}]}
    properties["dimensions"] |= {
        "properties": {
            key: {**dimension, "description": setting.help} for key, setting in settings.items()
        },
        "additionalProperties": False,
    }
    return schema


def _all_settings() -> dict[str, Setting]:
    """Settings of trials, of terms by full key, and of terms by bare name."""
    own = settings_of(TrialConfig)
    found = {key: setting for key, setting in own.items() if key not in OF_STUDY}
    for name in term_names():
        own = settings_of(term_class(name).Config)
        found |= {f"{name}.{key}": setting for key, setting in own.items()}
        found |= {key: setting for key, setting in own.items() if key not in found}
    return found


def _value(setting: Setting) -> dict[str, Any]:
    kind = _TYPES[setting.kind]
    schema: dict[str, Any] = {
        "description": setting.help,
        "type": [kind, "null"] if setting.optional else kind,
        "default": setting.default,
    }
    bounds = {
        "exclusiveMinimum": setting.above,
        "minimum": setting.at_least,
        "maximum": setting.at_most,
    }
    schema |= {key: bound for key, bound in bounds.items() if bound is not None}
    if setting.choices:
        schema["enum"] = list(setting.choices)
    return schema
