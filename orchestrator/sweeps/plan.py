"""A study made ready to run: its data and teachers are known, its configs can be keyed."""

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from orchestrator.sweeps.starts import Starts
from orchestrator.sweeps.teachers import teachers_of
from search_spaces.dimension import Value
from search_spaces.pairs import PAIR
from search_spaces.spec import Study
from trainables.compression.chain import Chain
from trainables.compression.measure import params_of
from trainables.compression.registry import PARTS
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.errors import UserError, unknown
from trainables.experiment import config_key
from trainables.job import Job
from trainables.models.blueprint import Blueprint
from trainables.models.weights import Card
from trainables.recipes import Filed, Recipe, lineage
from trainables.tasks.registry import TASKS
from trainables.tasks.task import Task
from trainables.teachers.classes import class_order, remark
from trainables.teachers.start import check_start
from trainables.teachers.teacher import find_teacher

MAX_CORNERS = 2000
UNTRAINED = "untrained"
"""In the place of a start's fingerprint while its teacher is not there yet."""
CHECKPOINT_SECONDS = "KDSWEEP_CHECKPOINT_SECONDS"


@dataclass(frozen=True)
class Plan:
    """What a sweep needs to know beside its study.

    Attributes:
        study: what to try.
        sweep: the sweep's name.
        results: folder or URI of the results.
        data_dir: as ``--data``.
        cards: of the teachers that exist, of theirs, and of what students begin with, by file.
        cpus, gpus: what one trial asks of Ray.
        began_as: the name under which the sweep began, where its folder has another one now.
    """

    study: Study
    sweep: str
    results: str
    data_dir: str | None = None
    cards: Mapping[str, Card] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float = 0.0
    began_as: str | None = None

    @property
    def origin(self) -> str:
        """The name under which the sweep began: its trials' names begin with it."""
        return self.began_as or self.sweep

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

    @property
    def task(self) -> Task:
        """Of the data set."""
        return TASKS[self.dataset.task]

    @cached_property
    def teachers(self) -> dict[str, Recipe | Filed]:
        """The teachers of trials by the names that configs have for them.

        Raises:
            UserError: an imported teacher is missing, or an unknown network.
        """
        return teachers_of(self.study, self.results, self.data_dir)

    def teacher(self, config: TrialConfig) -> Recipe | Filed | None:
        """The teacher of a trial: how it is trained, or where it is.

        Raises:
            UserError: the config is of another study.
        """
        if config.teacher is None:
            return None
        if config.teacher not in self.teachers:
            raise unknown("teacher", config.teacher, self.teachers)
        return self.teachers[config.teacher]

    @cached_property
    def starts(self) -> Starts:
        """What students begin with.

        Raises:
            UserError: a network is missing.
        """
        return Starts(self.study, self.results)

    def start(self, config: TrialConfig) -> Recipe | Filed | None:
        """What a trial's student begins with: see `Starts.of`."""
        return self.starts.of(config, self.teacher(config))

    def card(self, config: TrialConfig) -> Card | None:
        """The card of a trial's teacher; None where it is not trained yet, or there is none."""
        teacher = self.teacher(config)
        return self.cards.get(teacher.file) if teacher else None

    @cached_property
    def recipes(self) -> list[Recipe]:
        """All teachers that are trained, each once, and none before its own teacher."""
        found = {
            upper.key: upper
            for teacher in self.teachers.values()
            for upper in lineage(teacher)
            if isinstance(upper, Recipe)
        }
        return list(found.values())

    def missing(self, config: TrialConfig | None = None) -> list[Recipe]:
        """The teachers to train now, none before its own: of one trial, or of all.

        What is above a teacher that exists is not needed.
        """
        teachers = [self.teacher(config)] if config else self.teachers.values()
        wanted: dict[str, Recipe] = {}
        for teacher in teachers:
            chain: list[Recipe] = []
            while isinstance(teacher, Recipe) and teacher.key not in self.cards:
                chain.insert(0, teacher)
                teacher = teacher.upper
            wanted |= {step.key: step for step in chain}
        return list(wanted.values())

    def with_teachers(self) -> "Plan":
        """The plan with the cards of those teachers that exist by now.

        Raises:
            UserError: an imported teacher is missing, or one was made for other data.
        """
        cards = {}
        for teacher in [step for top in self.teachers.values() for step in lineage(top)]:
            card = (
                teacher.find(self.results)
                if isinstance(teacher, Recipe)
                else find_teacher(self.results, teacher.file)
            )
            if card is None:
                continue
            cards[teacher.file] = card
            class_order(card, self.dataset)
        return replace(self, cards=cards | self.starts.cards(self.dataset))

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the data and the teachers, a line each."""
        notes = [f"{self.dataset.name}: {note}" for note in self.dataset.notes]
        about = (remark(card, self.dataset) for card in self.cards.values())
        files = {teacher.file for teacher in self.teachers.values()}
        taught = {file: card for file, card in self.cards.items() if file in files}
        begun = self.starts.remarks(taught, self.dataset)
        return [*notes, *(line for line in about if line), *begun]

    def student(self, config: TrialConfig) -> str:
        """The canonical name of the network that a config asks for.

        Raises:
            UserError: there is none, or it is not the one that the trial begins with.
        """
        name = Chain(config.compression, config.chain).choose(
            config.student,
            teacher_params=self._teacher_params(config),
            classes=self.dataset.num_classes,
            image_shape=self.dataset.image_shape,
        )
        if start := self.start(config):
            check_start(config.start, name, start.blueprint)
        return name

    def blueprint(self, config: TrialConfig) -> Blueprint:
        """What a trial's student is before the first step of its chain.

        Raises:
            UserError: as `student`.
        """
        name, start = self.student(config), self.start(config)
        return start.blueprint if start else Blueprint(name)

    def key(self, config: TrialConfig) -> str:
        """The config's key: see `trainables.experiment.config_key`."""
        teacher, start = self.teacher(config), self.start(config)
        return config_key(
            config,
            student=self.student(config),
            data_fingerprint=self.dataset.fingerprint,
            teacher_fingerprint=self._fingerprint(teacher),
            start_fingerprint=self._fingerprint(start) or UNTRAINED if start else None,
        )

    def _fingerprint(self, network: Recipe | Filed | None) -> str | None:
        card = self.cards.get(network.file) if network else None
        return card.fingerprint if card else None

    def job(self, config: TrialConfig, trial_id: str, attempt: int, **changes: Any) -> Job:
        """The work order of an attempt at a trial.

        ``KDSWEEP_CHECKPOINT_SECONDS`` in the environment of the driver sets the least time
        between two checkpoints of a trial; the default is 60.
        """
        teacher, start = self.teacher(config), self.start(config)
        job = Job(
            config=config.to_dict(),
            sweep=self.sweep,
            trial_id=trial_id,
            results=self.results,
            data_dir=self.data_dir,
            teacher=teacher.file if teacher else None,
            teacher_fingerprint=self._fingerprint(teacher),
            start=start.file if start else None,
            start_fingerprint=self._fingerprint(start),
            attempt=attempt,
            cpus=self.cpus,
            gpus=self.gpus,
            constraints=self.study.constraints,
        )
        seconds = checkpoint_seconds()
        if seconds is not None:
            job = replace(job, checkpoint_seconds=seconds)
        return replace(job, **changes)

    def corners(self) -> Iterator[tuple[Value | None, TrialConfig]]:
        """Configs with every combination of the choices that shape the networks, by pair."""
        shaping = {PAIR, "method", "student", "start", "compression", *PARTS}
        space = {
            key: found
            for key, found in self.study.space.items()
            if key.partition(".")[0] in shaping
        }
        ends = [dimension.ends() for dimension in space.values()]
        for values in itertools.islice(itertools.product(*ends), MAX_CORNERS):
            corner = dict(zip(space, values, strict=True))
            drawn = self.study.draw(lambda key, dim, c=corner: c.get(key, dim.ends()[0]))  # type: ignore[misc]
            yield drawn.get(PAIR), self.study.config(drawn)

    def _teacher_params(self, config: TrialConfig) -> int | None:
        teacher = self.teacher(config)
        if teacher is None:
            return None
        if teacher.file in self.cards:
            return self.cards[teacher.file].params
        return params_of(teacher.blueprint, self.dataset.num_classes, self.dataset.image_shape)


@contextmanager
def naming(pair: Value | None) -> Iterator[None]:
    """Errors name the pair, if there is one."""
    try:
        yield
    except UserError as error:
        raise UserError(f"pairs.{pair}: {error}" if pair else str(error)) from error


def checkpoint_seconds() -> float | None:
    """What ``KDSWEEP_CHECKPOINT_SECONDS`` says; None where it is not set.

    Raises:
        UserError: it is no number of seconds.
    """
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
