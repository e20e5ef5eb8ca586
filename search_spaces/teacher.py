"""TeacherSpec: a study's teacher: imported, trained, or distilled from a teacher of its own."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from search_spaces.dimension import (
    chooses_teacher,
    layered,
    setting_of,
    settings_of_terms,
    term_keys,
)
from trainables.config import TrialConfig, settings_with
from trainables.errors import UserError, unknown
from trainables.methods.registry import PLAIN, canonical_method, needs_teacher
from trainables.optimizers.registry import DEFAULT, all_rule_settings, rule_settings
from trainables.settings import settings_of
from trainables.trial_settings import WEIGHTS

_NOT_TRAINING = {"method", *settings_with("words", "stage", "measurement")}
TRAINING = [key for key in settings_of(TrialConfig) if key not in _NOT_TRAINING]
"""Settings that a teacher's training has, too."""

UNNAMED = "expected either model (to train it) or name (an imported one)"


def as_teacher(value: Any) -> Any:
    """In YAML the name of a model stands for a teacher that is trained plainly."""
    return {"model": value} if isinstance(value, str) else value


class TeacherSpec(BaseModel):
    """A teacher: trained as the first stage of the sweep, or imported before.

    Further keys are training settings (``epochs``, ``lr``, ...); those not given are the
    study's ``fixed`` ones. With ``method`` and a ``teacher`` of its own it is a teacher
    assistant: distilled first, by the method's settings too, and then the teacher of the
    trials, so that the gap between the networks is crossed in steps.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant",
    AAAI 2020, arXiv 1902.03393.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str | None = Field(None, description="the network to train: see `kdsweep models`")
    name: str | None = Field(None, description="an imported teacher: see `kdsweep teacher list`")
    method: str | None = Field(None, description="how it is distilled from its own teacher")
    weights: str | None = Field(
        None,
        description="a file of weights whose features it is trained on from, below a fresh head: "
        "torchvision's vgg16_bn-6c64b313.pth for vgg16",
    )
    teacher: Annotated["TeacherSpec | None", BeforeValidator(as_teacher)] = Field(
        None, description="the teacher of this teacher: keys as here, or the name of a model"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TeacherSpec":
        if self.model is not None and self.name is not None:
            raise ValueError(UNNAMED)
        further = [key for key in ("method", "teacher") if getattr(self, key) is not None]
        given = further + ["weights"] * (self.weights is not None)
        if self.name is not None and (given or self.model_extra):
            raise ValueError(f"an imported teacher takes no {', '.join([*given, *self.own])}")
        if further == ["method"]:
            raise ValueError(f"method '{self.method}' needs a teacher of its own: add teacher")
        if further == ["teacher"]:
            raise ValueError(
                "a teacher with a teacher needs the method that distils it: add method"
            )
        if self.teacher is not None and not self.teacher.named:
            raise ValueError(f"teacher: {UNNAMED}")
        return self

    @property
    def named(self) -> bool:
        """Whether it says which network it is."""
        return self.model is not None or self.name is not None

    @property
    def own(self) -> dict[str, Any]:
        """The settings that differ from the study's fixed ones."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """The name by which configs refer to it.

        An assistant's tells the whole chain: ``resnet32(kd:resnet110)``.
        """
        if self.teacher is None:
            return str(self.model or self.name)
        assert self.method is not None
        return f"{self.model}({canonical_method(self.method)}:{self.teacher.label})"

    def chain(self, key: str) -> dict[str, "TeacherSpec"]:
        """This teacher, its own, and so on upwards, each by its place in the study.

        Args:
            key: the place of this one.
        """
        upper = self.teacher.chain(f"{key}.teacher") if self.teacher else {}
        return {key: self, **upper}

    def training(self, dataset: str, shared: Mapping[str, Any], key: str) -> TrialConfig | None:
        """How it is trained; None where it is imported.

        Args:
            dataset: the study's.
            shared: settings that it has where it gives none of its own. Those of terms apply
                where its method has the term.
            key: where it stands in the study, for errors.

        Raises:
            UserError: an unknown key or method, or a value out of its range.
        """
        if self.model is None:
            return None
        method = self.method or PLAIN
        try:
            reads = needs_teacher(method)
            # What it is distilled from is its own teacher alone.
            of_terms = [key for key in sorted(term_keys(method)) if not chooses_teacher(key)]
            keys = [*TRAINING, *of_terms]
        except UserError as error:
            raise UserError(f"{key}.method: {error}") from error
        optimizer = self.own.get("optimizer") or shared.get("optimizer") or DEFAULT
        keys += _of_rule(key, optimizer)
        if self.teacher is not None and not reads:
            raise UserError(f"{key}.method: '{method}' reads nothing of a teacher")
        for name, value in self.own.items():
            if name not in keys:
                raise unknown("key", f"{key}.{name}", [f"{key}.{known}" for known in keys])
            setting_of(name).check(f"{key}.{name}", value)
        values = layered({name: v for name, v in shared.items() if name in keys}, self.own)
        names = {"dataset": dataset, "student": self.model, "method": method}
        # What teachers share is of those that are trained plainly; one that is distilled says so.
        weights = self.weights or (None if self.method else shared.get("weights"))
        names |= {"start": f"{WEIGHTS}{weights}"} if weights else {}
        upper = self.teacher.label if self.teacher else None
        try:
            return TrialConfig.from_mapping({**values, **names, "teacher": upper})
        except UserError as error:
            raise UserError(f"{key}: {error}") from error


def _of_rule(key: str, optimizer: Any) -> Mapping[str, Any]:
    """The settings of a teacher's update rule."""
    return rule_settings(str(setting_of("optimizer").check(f"{key}.optimizer", optimizer)))


def check_shared(settings: Mapping[str, Any], key: str) -> None:
    """Checks settings that several teachers share, each by itself.

    Raises:
        UserError: one that no teacher's training has, or a value out of its range.
    """
    of_terms = (key for key in settings_of_terms() if not chooses_teacher(key))
    known = {*TRAINING, *of_terms, *all_rule_settings()}
    for name, value in settings.items():
        if name not in known:
            raise unknown("key", f"{key}.{name}", [f"{key}.{other}" for other in known])
        setting_of(name).check(f"{key}.{name}", value)


def check_distinct(
    teachers: Mapping[str, TeacherSpec], dataset: str, shared: Mapping[str, Any]
) -> None:
    """Checks the training of every teacher, and that no two have one label.

    A config knows its teacher by the label alone, and so do rows and tables.

    Args:
        teachers: by the key at which the study gives them.
        dataset, shared: as for `TeacherSpec.training`.

    Raises:
        UserError: as `TeacherSpec.training`, or two trainings under one label.
    """
    known: dict[str, tuple[str, list[Any]]] = {}
    for key, teacher in teachers.items():
        trainings = [
            spec.name or spec.training(dataset, shared, place)
            for place, spec in teacher.chain(key).items()
        ]
        first, others = known.setdefault(teacher.label, (key, trainings))
        if others != trainings:
            raise UserError(
                f"{key}: is another '{teacher.label}' than {first}, and trials could not tell "
                "them apart; train one of them in a study of its own"
            )
