"""The JSON schema of a study file, for editors that complete and check while one types."""

from typing import Any

from search_spaces.dimension import chooses_teacher, known_settings, settings_of_terms
from search_spaces.pairs import ARROW, OF_ALL_PAIRS
from search_spaces.spec import OF_STUDY, Study
from search_spaces.teacher import TRAINING
from trainables.attribution.registry import EXPLAINERS
from trainables.config import TrialConfig
from trainables.optimizers.registry import all_rule_settings
from trainables.settings import Setting, settings_of

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
_MODEL = {"type": "string", "description": "the name of a model"}


def study_schema() -> dict[str, Any]:
    """The schema, with every setting's meaning, default and range."""
    schema = Study.model_json_schema()
    schema["title"] = "kdsweep study"
    schema["required"] = [key for key in schema["required"] if key != "name"]
    settings = {key: found for key, found in known_settings().items() if key not in OF_STUDY}
    values = {key: _value(setting) for key, setting in settings.items()}
    properties = schema["properties"]
    properties["teacher"]["anyOf"].append(_MODEL)
    further = properties["teachers"]
    further["additionalProperties"] = {"anyOf": [further["additionalProperties"], _MODEL]}
    properties["fixed"] |= {"properties": values, "additionalProperties": False} | _explaining()
    _complete_teacher(schema["$defs"]["TeacherSpec"], values)
    _complete_pairs(schema, values)
    dimension = {"anyOf": [{"$ref": "#/$defs/Dimension"}, {"type": "array", "minItems": 1}]}
    searched = {"anyOf": [*dimension["anyOf"], {"type": "null"}]}
    properties["dimensions"] |= {
        "properties": {
            key: {**(searched if setting.search else dimension), "description": setting.help}
            for key, setting in settings.items()
        },
        "additionalProperties": False,
    }
    return schema


def _complete_teacher(teacher: dict[str, Any], values: dict[str, Any]) -> None:
    """Its training settings, those of terms and rules; a model's name for a teacher's teacher."""
    own = settings_of(TrialConfig)
    of_terms = (key for key in settings_of_terms() if not chooses_teacher(key))
    further = {*of_terms, *all_rule_settings()} - own.keys()
    trained = {key: value for key, value in values.items() if key in further.union(TRAINING)}
    teacher["properties"]["teacher"]["anyOf"].append(_MODEL)
    teacher["properties"] |= trained
    teacher["additionalProperties"] = False
    teacher["dependentRequired"] = {"method": ["teacher"], "teacher": ["method"]}


def _complete_pairs(schema: dict[str, Any], values: dict[str, Any]) -> None:
    """The settings of a pair; where its name says both networks, it need not say anything."""
    pair = schema["$defs"]["Pair"]
    own = pair["properties"]
    given = {key: value for key, value in values.items() if key not in {*own, *OF_ALL_PAIRS}}
    own["teacher"] = {"anyOf": [own["teacher"], _MODEL]}
    own |= given
    pair |= {"additionalProperties": False} | _explaining()
    named = {key: value for key, value in pair.items() if key != "required"}
    schema["$defs"]["NamedPair"] = {"anyOf": [named, {"type": "null"}]}
    pairs = schema["properties"]["pairs"]
    pairs["patternProperties"] = {f"^[^>]+{ARROW}[^>]+$": {"$ref": "#/$defs/NamedPair"}}


def _explaining() -> dict[str, Any]:
    """Settings of explainers, whose files are not loaded for their names."""
    scalars = {"type": ["string", "number", "boolean", "null"]}
    return {"patternProperties": {rf"^({'|'.join(EXPLAINERS)})\..+$": scalars}}


def _value(setting: Setting) -> dict[str, Any]:
    kind = _TYPES[setting.kind]
    schema: dict[str, Any] = {
        "description": setting.help,
        "type": [kind, "null"] if setting.optional or setting.default is None else kind,
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
