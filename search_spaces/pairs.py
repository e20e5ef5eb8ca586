"""Pair: a teacher and its student, in studies over several of them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from search_spaces.dimension import check_known, setting_of
from search_spaces.teacher import UNNAMED, TeacherSpec, as_teacher
from trainables.errors import UserError

PAIR = "pair"
"""The dimension that chooses among a study's pairs."""

ARROW = "->"

OF_ALL_PAIRS = {"image_size": "is one for all trials of a study: give it by fixed"}
"""Settings that do not differ between the pairs of a study."""


class Pair(BaseModel):
    """One of a study's teachers with the student of its trials.

    Further keys are settings of the trials of this pair. They win over the study's ``fixed``
    ones, and like those apply only where a trial's method and compression have them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    teacher: Annotated[TeacherSpec, BeforeValidator(as_teacher)] = Field(
        description="keys as in the study's teacher, or the name of a model"
    )
    student: str | None = Field(
        None, description="the student's model or family; none: the study's own"
    )

    @model_validator(mode="after")
    def _named(self) -> "Pair":
        if not self.teacher.named:
            raise ValueError(f"teacher: {UNNAMED}")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What the trials of this pair share."""
        student = {} if self.student is None else {"student": self.student}
        return {**student, **(self.model_extra or {})}

    def check(self, key: str, not_here: Mapping[str, str]) -> None:
        """Checks every setting by itself.

        Args:
            key: where the pair stands in the study, for errors.
            not_here: settings that nothing in a study can give, and why.

        Raises:
            UserError: an unknown key, or a value out of its range.
        """
        refused = {**not_here, **OF_ALL_PAIRS}
        for name, value in self.settings.items():
            check_known(name, key)
            if name in refused:
                raise UserError(f"{key}.{name}: {refused[name]}")
            setting_of(name).check(f"{key}.{name}", value)


def spelled_out(pairs: Any) -> Any:
    """Pairs as they stand in YAML, with the teacher and the student that a name tells.

    ``wrn_40_2->wrn_16_2: {lr: 0.1}`` has the teacher wrn_40_2 and the student wrn_16_2, unless
    it says otherwise. What is no mapping is left for others to refuse.
    """
    if not isinstance(pairs, Mapping):
        return pairs
    return {name: _spelled_out(name, settings) for name, settings in pairs.items()}


def _spelled_out(name: Any, settings: Any) -> Any:
    if settings is None:
        settings = {}
    parts = [part.strip() for part in str(name).split(ARROW)]
    if not isinstance(settings, Mapping) or len(parts) != 2 or not all(parts):
        return settings
    given = {key: value for key, value in settings.items() if value is not None or key != "student"}
    return {"teacher": parts[0], "student": parts[1], **given}
