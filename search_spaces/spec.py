"""Study: what to try, typed. One YAML file is one study."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from search_spaces.dimension import Dimension, Strict, Value, check_known, grid_values, setting_of
from trainables.config import COMPRESSIONS, TrialConfig
from trainables.errors import UserError, unknown
from trainables.methods.method import method_settings
from trainables.methods.registry import PLAIN
from trainables.settings import settings_of

Draw = Callable[[str, Dimension], Value]

MAX_GRID = 100_000


def _as_choices(value: Any) -> Any:
    return {"choices": value} if isinstance(value, list) else value


class TeacherSpec(BaseModel):
    """The teacher: trained as the first stage of the sweep, or imported before.

    Further keys are training settings (``epochs``, ``lr``, ...); those not given are the
    study's ``fixed`` ones.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str | None = Field(None, description="the network to train: see `kdsweep models`")
    name: str | None = Field(None, description="an imported teacher: see `kdsweep teacher list`")

    @model_validator(mode="after")
    def _one(self) -> "TeacherSpec":
        if (self.model is None) == (self.name is None):
            raise ValueError("expected either model (to train it) or name (an imported one)")
        if self.name is not None and self.model_extra:
            raise ValueError(f"an imported teacher takes no {', '.join(self.model_extra)}")
        return self

    @property
    def training(self) -> dict[str, Any]:
        """The settings that differ from the study's fixed ones."""
        return dict(self.model_extra or {})


class Study(Strict):
    """A study: data, teacher, what is fixed, what is searched, for what and how long."""

    name: str = Field(description="the study's name; the file's by default")
    description: str = Field("", description="what it is for, and what to expect of it")
    dataset: str = Field(description="see `kdsweep datasets`")
    teacher: TeacherSpec | None = Field(None, description="the teacher of all trials")
    fixed: dict[str, Value | None] = Field(
        default_factory=dict, description="settings that all trials share"
    )
    dimensions: dict[str, Annotated[Dimension, BeforeValidator(_as_choices)]] = Field(
        default_factory=dict, description="settings to search; those of a term by TERM.KEY"
    )
    points: list[dict[str, Value]] = Field(
        default_factory=list, description="values of dimensions to try before anything else"
    )
    cover: list[str] = Field(
        default_factory=list,
        description="dimensions of which every combination of choices is tried first",
    )
    objectives: dict[str, Literal["max", "min"]] = Field(
        default={"val_acc": "max", "compression_params": "max"},
        min_length=1,
        description="columns of the trials table to optimise; none of the test set",
    )
    sampler: Literal["tpe", "nsga2", "random", "grid", "points"] = Field(
        "tpe", description="how Optuna chooses; grid tries all choices, points only the listed"
    )
    sampler_seed: int = Field(0, ge=0)
    trials: int | None = Field(None, ge=1, description="configs to train; grid, points: all")
    repeats: int = Field(1, ge=1, description="seeds under which every config is trained")

    @field_validator("objectives")
    @classmethod
    def _never_test(cls, objectives: dict[str, str]) -> dict[str, str]:
        for key in objectives:
            if key.startswith("test_"):
                raise ValueError(f"{key}: nothing is ever selected on the test set")
        return objectives

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if self.sampler not in ("grid", "points") and self.trials is None:
            raise ValueError("trials: expected how many configs to train")
        for key in self.dimensions:
            if key in self.fixed:
                raise ValueError(f"{key}: is both fixed and a dimension")
        for key in self.cover:
            if key not in self.dimensions or self.dimensions[key].choices is None:
                raise ValueError(f"cover: {key} is not a dimension with listed choices")
        for key, dimension in self.dimensions.items():
            if self.sampler == "grid" and dimension.choices is None and dimension.step is None:
                raise ValueError(f"dimensions.{key}: a grid needs choices, or a range with step")
        for point in self.points:
            for key, value in point.items():
                if key not in self.dimensions:
                    raise ValueError(f"points: {key} is not a dimension")
                if value not in self.dimensions[key]:
                    raise ValueError(f"points: {key} {value!r} is not in its dimension")
        ordered = sorted(self.dimensions, key=_decides_first)
        for place, key in enumerate(ordered):
            for other in self.dimensions[key].when:
                if other not in self.fixed and other not in ordered[:place]:
                    raise ValueError(
                        f"dimensions.{key}.when: {other} is neither fixed nor a dimension before it"
                    )
        return self

    # What a trial is

    def draw(self, draw: Draw) -> dict[str, Value]:
        """Draws every dimension that exists in a trial, those that decide others first.

        A setting of a term exists where the method has the term, an amount of compression
        where it is the trial's kind of compression, anything else where its ``when`` holds.

        Args:
            draw: gives a value for a dimension, by its key.
        """
        values: dict[str, Value] = {}
        for key in sorted(self.dimensions, key=_decides_first):
            if self._exists(key, values):
                values[key] = draw(key, self.dimensions[key])
        return values

    def config(self, drawn: Mapping[str, Value], *, repeat: int = 0) -> TrialConfig:
        """The trial of drawn values, under the seeds of a repeat.

        Raises:
            UserError: a value out of its range.
        """
        own = {"dataset": self.dataset, "teacher": self._teacher_name()}
        values: dict[str, Any] = {**self.fixed, **drawn, **own}
        method = str(values.get("method", PLAIN))
        applies = {key for key in values if self._applies(key, method, values)}
        values = {key: value for key, value in values.items() if key in applies}
        for seed in ("seed", "view_seed"):
            values[seed] = int(values.get(seed) or 0) + repeat
        return TrialConfig.from_mapping(values)

    def teacher_config(self) -> TrialConfig | None:
        """The training of the teacher; None where there is none to train."""
        if self.teacher is None or self.teacher.model is None:
            return None
        shared = {key: value for key, value in self.fixed.items() if key in TRAINING}
        values = {**shared, **self.teacher.training}
        for key, value in self.teacher.training.items():
            if key not in TRAINING:
                raise unknown("key", f"teacher.{key}", [f"teacher.{name}" for name in TRAINING])
            setting_of(key).check(f"teacher.{key}", value)
        return TrialConfig.from_mapping(
            {**values, "dataset": self.dataset, "student": self.teacher.model}
        )

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every combination of choices, each once, in the written order."""
        yield from self._product(list(self.dimensions))

    def first_points(self) -> list[dict[str, Value]]:
        """What is tried before the sampler is asked: the listed points, then the cover."""
        points = [dict(point) for point in self.points]
        if self.cover:
            points += self._product(self.cover)
        if self.sampler == "grid":
            points += self.grid()
        return points

    def check(self) -> None:
        """Builds the config of every corner of the space.

        Raises:
            UserError: an unknown key or method, or a value out of its range, by name.
        """
        for block, keys in (("fixed", self.fixed), ("dimensions", self.dimensions)):
            for key in keys:
                check_known(key)
                if key in OF_STUDY:
                    raise UserError(f"{block}.{key}: {OF_STUDY[key]}")
        for key, dimension in self.dimensions.items():
            kind = setting_of(key)
            for value in dimension.ends():
                kind.check(f"dimensions.{key}", value)
            if kind.kind is int and dimension.step and not dimension.step.is_integer():
                raise UserError(
                    f"dimensions.{key}.step: expected a whole number, got {dimension.step:g}"
                )
        for key, fixed in self.fixed.items():
            if fixed is not None:
                setting_of(key).check(f"fixed.{key}", fixed)
        self.teacher_config()
        for method in self._values_of("method", PLAIN):
            for compression in self._values_of("compression", None):
                corner = {"method": method}
                if compression is not None:
                    corner["compression"] = compression
                self.config(self.draw(_first_value(corner)))

    def _values_of(self, key: str, default: Value | None) -> list[Any]:
        if key in self.dimensions:
            return self.dimensions[key].ends()
        return [self.fixed.get(key, default)]

    def _teacher_name(self) -> str | None:
        return (self.teacher.model or self.teacher.name) if self.teacher else None

    def _exists(self, key: str, values: Mapping[str, Value]) -> bool:
        known = {**self.fixed, **values}
        if any(
            known.get(other) not in allowed for other, allowed in self.dimensions[key].when.items()
        ):
            return False
        return self._applies(key, str(known.get("method", PLAIN)), known)

    def _applies(self, key: str, method: str, values: Mapping[str, Any]) -> bool:
        """Whether a key has an effect in a trial of this method and compression."""
        if key in COMPRESSIONS:
            return values.get("compression", key) == key
        return key in _TRIAL_KEYS or key in _term_keys(method)

    def _product(self, keys: list[str]) -> list[dict[str, Value]]:
        """All combinations of the listed dimensions that exist together."""
        found: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
        ordered = sorted(keys, key=_decides_first)
        for combination in itertools.product(
            *(grid_values(self.dimensions[k], k) for k in ordered)
        ):
            chosen = dict(zip(ordered, combination, strict=True))
            values: dict[str, Value] = {}
            for key in ordered:
                if self._exists(key, values):
                    values[key] = chosen[key]
            found.setdefault(tuple(values.items()), values)
            if len(found) > MAX_GRID:
                raise UserError(f"dimensions: the grid has more than {MAX_GRID:,} points")
        return list(found.values())


OF_STUDY = {
    "dataset": "is a key of the study itself",
    "teacher": "is a key of the study itself; its network is teacher.model",
    "stage": "is not for a study to set; `kdsweep confirm` does",
}
"""Settings of a trial that a study does not give by ``fixed`` or ``dimensions``."""

_TRIAL_KEYS = frozenset(settings_of(TrialConfig))

TRAINING = [
    key
    for key in settings_of(TrialConfig)
    if key not in ("dataset", "teacher", "student", "method", "stage", *COMPRESSIONS)
    and key != "compression"
]
"""Settings that a teacher's training has, too."""


@functools.cache
def _term_keys(method: str) -> frozenset[str]:
    """The keys of a method's settings, full and bare."""
    full = method_settings(method)
    return frozenset(full) | {key.partition(".")[2] for key in full}


def _decides_first(key: str) -> int:
    """Method and compression decide which other dimensions exist."""
    return {"method": 0, "compression": 1}.get(key, 2)


def _first_value(corner: Mapping[str, Value]) -> Draw:
    return lambda key, dimension: corner.get(key, dimension.ends()[0])
