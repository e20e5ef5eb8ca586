"""Study: what to try, typed. One YAML file is one study."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from search_spaces.dimension import (
    Dimension,
    Strict,
    Value,
    applies,
    layered,
    written_out,
)
from search_spaces.form import check_form, check_teachers
from search_spaces.pairs import PAIR, Pair, spelled_out
from search_spaces.published import Published
from search_spaces.roles import others_of
from search_spaces.space import Space
from search_spaces.teacher import TeacherSpec, as_teacher
from trainables.config import TrialConfig, settings_with
from trainables.constraints import Constraint, read_constraint, read_constraints
from trainables.methods.registry import OTHERS
from trainables.objectives import check_objective, runtimes_for
from trainables.registry import Registry
from trainables.trial_settings import MAX_SEED

MAX_REPEATS = 10_000

LISTS = ("grid", "points")
"""What stands in a sampler's place where nothing is left to choose."""

SAMPLERS: Registry[Callable[..., Any]] = Registry(
    "sampler",
    "kdsweep.samplers",
    {
        "tpe": "orchestrator.sweeps.samplers:tpe",
        "nsga2": "optuna.samplers:NSGAIISampler",
        "random": "optuna.samplers:RandomSampler",
    },
    also=LISTS,
)
"""What makes a sampler of Optuna from ``seed=...``. Here the names alone are needed."""


def _as_choices(value: Any) -> Any:
    return {"choices": value} if isinstance(value, list) else value


class Study(Strict):
    """A study: data, teacher, what is fixed, what is searched, for what and how long."""

    name: str = Field(description="the study's name; the file's by default")
    description: str = Field("", description="what it is for, and what to expect of it")
    dataset: str = Field(description="see `kdsweep datasets`")
    teacher: Annotated[TeacherSpec | None, BeforeValidator(as_teacher)] = Field(
        None,
        description="the teacher of all trials; with pairs, what the teachers' trainings share",
    )
    teachers: dict[str, Annotated[TeacherSpec, BeforeValidator(as_teacher)]] = Field(
        default_factory=dict,
        description="further teachers by role, for terms that read them; keys as in teacher, or "
        "the name of a model",
    )
    pairs: Annotated[dict[str, Pair], BeforeValidator(spelled_out)] = Field(
        default_factory=dict,
        description="teachers with their students, by name: TEACHER->STUDENT, or spelled out",
    )
    fixed: dict[str, Value | None] = Field(
        default_factory=dict, description="settings that all trials share"
    )
    dimensions: dict[str, Annotated[Dimension, BeforeValidator(_as_choices)]] = Field(
        default_factory=dict,
        description="settings to search; those of a term by TERM.KEY, of the "
        "update rule by optimizer.KEY",
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
        description="columns of the trials table to optimise; none of the test set; "
        "without a teacher val_acc alone by default; on data of another task its metric: val_map",
    )
    constraints: dict[str, str] = Field(
        default_factory=dict,
        description='bounds of columns, in their units, such as latency_ms: "<= 5"; a student '
        "that cannot keep one of its costs is not trained",
    )
    sampler: str = Field(
        "tpe",
        description="how Optuna chooses; grid tries all choices, points only the listed",
        json_schema_extra=lambda schema: schema.update(enum=[*SAMPLERS, *LISTS]),
    )
    sampler_seed: int = Field(0, ge=0, le=MAX_SEED)
    trials: int | None = Field(None, ge=1, description="configs to train; grid, points: all")
    repeats: int = Field(
        1, ge=1, le=MAX_REPEATS, description="seeds under which every config is trained"
    )
    published: Published | None = Field(
        None, description="published numbers for `kdsweep table --against published`"
    )

    @field_validator("dimensions", mode="before")
    @classmethod
    def _written_out(cls, dimensions: Any) -> Any:
        if not isinstance(dimensions, Mapping):
            return dimensions
        return {key: written_out(key, written) for key, written in dimensions.items()}

    @field_validator("sampler")
    @classmethod
    def _known(cls, sampler: str) -> str:
        if sampler not in LISTS:
            SAMPLERS.check(sampler)
        return sampler

    @field_validator("objectives")
    @classmethod
    def _possible(cls, objectives: dict[str, str]) -> dict[str, str]:
        for key in objectives:
            check_objective(key)
        return objectives

    @field_validator("constraints", mode="before")
    @classmethod
    def _bounds(cls, constraints: Any) -> Any:
        if isinstance(constraints, Mapping):
            for name, text in constraints.items():
                read_constraint(str(name), text)
        return constraints

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        check_teachers(self)
        if "objectives" not in self.model_fields_set and not self.all_teachers():
            # There is nothing that a student is small beside. No field that somebody has set.
            self.__dict__["objectives"] = {"val_acc": "max"}
        check_form(self)
        return self

    @property
    def space(self) -> Space:
        """All dimensions, by key, and which of them a trial has."""
        return Space(self)

    @property
    def bounds(self) -> tuple[Constraint, ...]:
        """The constraints, read."""
        return read_constraints(self.constraints)

    @property
    def judged(self) -> dict[str, str]:
        """The columns by which trials are judged, by the key that says so."""
        aims = {f"objectives.{name}": name for name in self.objectives}
        return aims | {f"constraints.{name}": name for name in self.constraints}

    # What a trial is

    def shared(self, pair: Value | None = None) -> dict[str, Any]:
        """The settings that all trials share, or all of a pair: the fixed ones and its own."""
        return layered(self.fixed, self.pairs[str(pair)].settings if pair is not None else {})

    def config(self, drawn: Mapping[str, Value], *, repeat: int = 0) -> TrialConfig:
        """The trial of drawn values, under the seeds of a repeat.

        Raises:
            UserError: a value out of its range.
        """
        pair = drawn[PAIR] if self.pairs else None
        teacher = self.pairs[str(pair)].teacher if self.pairs else self.teacher
        names = {"dataset": self.dataset, "teacher": teacher.label if teacher else None}
        values: dict[str, Any] = {**self.shared(pair), **drawn, **names}
        values = {key: value for key, value in values.items() if applies(key, values)}
        values |= others_of(self, values)
        for seed in settings_with("seed"):
            values[seed] = int(values.get(seed) or 0) + repeat
        config = TrialConfig.from_mapping(values)
        runtimes = [*config.runtimes, *runtimes_for(self.judged.values())]
        if runtimes == config.runtimes:
            return config
        return config.replace(latencies="+".join(dict.fromkeys(runtimes)))

    def all_teachers(self) -> dict[str, TeacherSpec]:
        """The teachers of trials by the key at which the study gives them; further ones last."""
        further = {f"{OTHERS}{role}": teacher for role, teacher in self.teachers.items()}
        if self.pairs:
            pairs = {f"pairs.{name}.teacher": pair.teacher for name, pair in self.pairs.items()}
            return pairs | further
        return ({"teacher": self.teacher} if self.teacher else {}) | further

    def teacher_config(
        self, teacher: TeacherSpec | None = None, key: str = "teacher"
    ) -> TrialConfig | None:
        """How a teacher is trained; None where it is imported, or there is none.

        Args:
            teacher: a pair's, a further one, or a teacher's teacher; None for the study's own.
            key: where the study gives it, for errors.

        Raises:
            UserError: an unknown key, or a value out of its range.
        """
        teacher = teacher or self.teacher
        return teacher.training(self.dataset, self.shared_by_teachers, key) if teacher else None

    @property
    def shared_by_teachers(self) -> dict[str, Any]:
        """The settings that teachers have where they give none of their own."""
        if not self.pairs or self.teacher is None:
            return layered(self.fixed, {})
        weights = {"weights": self.teacher.weights} if self.teacher.weights else {}
        return layered(self.fixed, self.teacher.own | weights)

    @property
    def asks_sampler(self) -> bool:
        """Whether there is more to try than `first_points`."""
        return self.sampler not in LISTS and bool(self.space)

    def budget(self, points: int) -> int:
        """How many configs are to be trained, of which so many are points to try first."""
        wanted = self.trials or points
        return wanted if self.asks_sampler else min(wanted, points)

    def first_points(self) -> list[dict[str, Value]]:
        """What is tried before the sampler is asked: the listed points, then the cover.

        A study without dimensions has one config, and that is its only point.
        """
        if not self.space:
            return [{}]
        points = [dict(point) for point in self.points]
        if self.cover:
            points += self.space.grid(self.cover)
        if self.sampler == "grid":
            points += self.space.grid()
        return points


OF_STUDY = {
    "dataset": "is a key of the study itself",
    "teacher": "is a key of the study itself; its network is teacher.model",
    "stage": "is not for a study to set; `kdsweep confirm` does",
    PAIR: "is the choice among the study's pairs, a dimension by itself",
}
"""Settings of a trial that a study does not give by ``fixed`` or ``dimensions``."""
