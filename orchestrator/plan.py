"""A study made ready to run: its data and teacher are known, its configs can be keyed."""

import functools
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch

from orchestrator.store import SCHEMAS
from search_spaces.spec import Study
from trainables.compression.architecture import StudentChoice, choose_student
from trainables.compression.measure import count_params
from trainables.config import COMPRESSIONS, TrialConfig, config_key
from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.errors import UserError, unknown
from trainables.job import Job
from trainables.methods.method import Method
from trainables.models.outputs import Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.models.weights import Card
from trainables.teachers.teacher import find_teacher
from trainables.teachers.train import Recipe, recipe

MAX_CORNERS = 2000
_COUNTS = ("params", "macs", "size_bytes", "peak_memory_bytes")
CHECKPOINT_SECONDS = "KDSWEEP_CHECKPOINT_SECONDS"


@dataclass(frozen=True)
class Plan:
    """What a sweep needs to know beside its study.

    Attributes:
        study: what to try.
        sweep: the sweep's name.
        results: folder or URI of the results.
        data_dir: as ``--data``.
        teacher: the teacher's card once it exists.
        cpus, gpus: what one trial asks of Ray.
    """

    study: Study
    sweep: str
    results: str
    data_dir: str | None = None
    teacher: Card | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    @cached_property
    def dataset(self) -> Dataset:
        """The study's data set.

        Raises:
            UserError: it is missing or damaged.
        """
        size = self.study.fixed.get("image_size")
        return load_dataset(
            self.study.dataset, self.data_dir, image_size=int(size) if size else None
        )

    @cached_property
    def recipe(self) -> Recipe | None:
        """How the teacher is trained; None where it is imported or there is none."""
        config = self.study.teacher_config()
        return recipe(config, self.data_dir) if config else None

    @property
    def teacher_file(self) -> str | None:
        """The teacher's file in the results folder, without suffix."""
        if self.recipe is not None:
            return self.recipe.key
        return self.study.teacher.name if self.study.teacher else None

    def with_teacher(self) -> "Plan":
        """The plan with the card of its teacher, if that exists by now.

        Raises:
            UserError: an imported teacher is missing, or was made for other data.
        """
        if self.teacher_file is None:
            return self
        card = find_teacher(self.results, self.teacher_file)
        if card is None and self.recipe is None:
            raise UserError(
                f"teacher.name: there is no teacher '{self.teacher_file}' in {self.results}; "
                f"import it with `kdsweep teacher import MODEL FILE --name {self.teacher_file}`"
            )
        if card is not None and (card.classes, card.image_shape) != (
            self.dataset.num_classes,
            self.dataset.image_shape,
        ):
            raise UserError(
                f"teacher '{card.name}' was made for {card.classes} classes of images "
                f"{card.image_shape}, dataset '{self.dataset.name}' has "
                f"{self.dataset.num_classes} of {self.dataset.image_shape}"
            )
        return replace(self, teacher=card)

    def student(self, config: TrialConfig) -> StudentChoice:
        """The network that a config asks for.

        Raises:
            UserError: there is none.
        """
        return choose_student(
            config.student,
            config.compression,
            config.amount,
            teacher_params=self._teacher_params,
            classes=self.dataset.num_classes,
            image_shape=self.dataset.image_shape,
        )

    def key(self, config: TrialConfig) -> str:
        """The config's key: see `trainables.config.config_key`."""
        return config_key(
            config,
            student=self.student(config).name,
            data_fingerprint=self.dataset.fingerprint,
            teacher_fingerprint=self.teacher.fingerprint if self.teacher else None,
        )

    def job(self, config: TrialConfig, trial_id: str, attempt: int, **changes: Any) -> Job:
        """The work order of an attempt at a trial.

        ``KDSWEEP_CHECKPOINT_SECONDS`` in the environment of the driver sets the least time
        between two checkpoints of a trial; the default is 60.
        """
        job = Job(
            config=config.to_dict(),
            sweep=self.sweep,
            trial_id=trial_id,
            results=self.results,
            data_dir=self.data_dir,
            teacher=self.teacher_file,
            attempt=attempt,
            cpus=self.cpus,
            gpus=self.gpus,
        )
        seconds = _checkpoint_seconds()
        if seconds is not None:
            job = replace(job, checkpoint_seconds=seconds)
        return replace(job, **changes)

    def check(self) -> None:
        """Builds every kind of student and every method for it, without memory or training.

        Raises:
            UserError: a network that cannot be built for these images, or a pair of networks
                that a method cannot join; an objective that no trial will have.
        """
        _checkpoint_seconds()
        self._check_objectives()
        built: set[tuple[str, str]] = set()
        for config in self._corners():
            student = self.student(config).name
            if (student, config.method) in built:
                continue
            built.add((student, config.method))
            try:
                teacher = self._shapes(self._teacher_model) if self._teacher_model else None
                shapes = self._shapes(student)
                with torch.device("meta"):
                    Method(config.method, config.terms, shapes, teacher)
            except UserError as error:
                raise UserError(f"student {student}, method {config.method}: {error}") from error

    def _check_objectives(self) -> None:
        columns = SCHEMAS["trials"]
        numbers = [f.name for f in columns if pa.types.is_floating(f.type) or f.name in _COUNTS]
        numbers = [name for name in numbers if not name.startswith("test_")]
        for key in self.study.objectives:
            if key not in numbers:
                raise unknown("objective", key, numbers)
            if key.startswith(("compression_", "teacher_")) and self.study.teacher is None:
                raise UserError(f"objectives.{key}: needs a teacher")
            if key.startswith("val_") and self.study.fixed.get("val_fraction") == 0:
                raise UserError(f"objectives.{key}: val_fraction is 0, so that no trial has it")

    def _shapes(self, model: str) -> Shapes:
        return _shapes_of(model, self.dataset.num_classes, self.dataset.image_shape)

    def _corners(self) -> Iterator[TrialConfig]:
        """Configs with every combination of the choices that shape the networks."""
        shaping = ("method", "student", *COMPRESSIONS, "compression")
        keys = [key for key in self.study.dimensions if key in shaping]
        ends = [self.study.dimensions[key].ends() for key in keys]
        for values in itertools.islice(itertools.product(*ends), MAX_CORNERS):
            corner = dict(zip(keys, values, strict=True))
            drawn = self.study.draw(lambda key, dim, c=corner: c.get(key, dim.ends()[0]))  # type: ignore[misc]
            yield self.study.config(drawn)

    @cached_property
    def _teacher_model(self) -> str | None:
        if self.teacher is not None:
            return self.teacher.model
        return self.recipe.name if self.recipe else None

    @cached_property
    def _teacher_params(self) -> int | None:
        if self.teacher is not None:
            return self.teacher.params
        if self.recipe is None:
            return None
        with torch.device("meta"):
            return count_params(
                create_model(self.recipe.name, self.dataset.num_classes, self.dataset.image_shape)
            )


@functools.lru_cache(maxsize=1024)
def _shapes_of(model: str, classes: int, image_shape: tuple[int, int, int]) -> Shapes:
    with torch.device("meta"):
        return output_shapes(create_model(model, classes, image_shape), image_shape)


def _checkpoint_seconds() -> float | None:
    text = os.environ.get(CHECKPOINT_SECONDS)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UserError(f"{CHECKPOINT_SECONDS}: expected seconds >= 0, got {text!r}")
    return seconds
