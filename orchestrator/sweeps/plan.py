"""A study made ready to run: its data and teachers are known, its configs can be keyed."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from orchestrator.sweeps.starts import Starts
from orchestrator.sweeps.teachers import Teachers
from search_spaces.dimension import Value, chooses_teacher
from search_spaces.pairs import PAIR
from search_spaces.spec import Study
from trainables.attribution.costs import of_trial
from trainables.compression.chain import Chain
from trainables.compression.measure import params_of
from trainables.compression.registry import PARTS
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.experiment import config_key
from trainables.job import Job
from trainables.models.blueprint import Blueprint
from trainables.models.weights import Card
from trainables.recipes import Filed, Recipe
from trainables.tasks.registry import TASKS
from trainables.tasks.task import Task
from trainables.teachers.classes import guessing, remark
from trainables.teachers.start import check_start

SHAPING = ("method", "student", "start", "compression")
"""Settings that shape the networks, besides those of a compression's parts, and by which terms say
which teacher they read."""
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
    def teachers(self) -> Teachers:
        """Those of the study's trials.

        Raises:
            UserError: an imported teacher is missing, or an unknown network.
        """
        return Teachers(self.study, self.results, self.data_dir)

    @cached_property
    def starts(self) -> Starts:
        """What students begin with.

        Raises:
            UserError: a network is missing.
        """
        return Starts(self.study, self.results)

    def start(self, config: TrialConfig) -> Recipe | Filed | None:
        """What a trial's student begins with: see `Starts.of`."""
        return self.starts.of(config, self.teachers.of(config))

    def missing(self, config: TrialConfig | None = None) -> list[Recipe]:
        """The teachers to train now, of one trial or of all: see `Teachers.missing`."""
        return self.teachers.missing(self.cards, config)

    def with_teachers(self) -> "Plan":
        """The plan with the cards of those teachers that exist by now.

        Raises:
            UserError: an imported teacher is missing, or one was made for other data.
        """
        cards = self.teachers.cards(self.dataset) | self.starts.cards(self.dataset)
        return replace(self, cards=cards)

    @property
    def notes(self) -> list[str]:
        """What a user should know before anything is trained, a line each.

        Of the data, and what it takes to explain a student.
        """
        of_data = [f"{self.dataset.name}: {note}" for note in self.dataset.notes]
        configs = (config for _, config in self.corners() if config.explainer_configs)
        explained = (of_trial(one.explainer_configs, one.explained_images) for one in configs)
        return [*of_data, *dict.fromkeys(explained)]

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the teachers, a line each."""
        cards = self.cards.values()
        about = [*(remark(card, self.dataset) for card in cards), *map(guessing, cards)]
        files = {teacher.file for teacher in self.teachers.first}
        taught = {file: card for file, card in self.cards.items() if file in files}
        begun = self.starts.remarks(taught, self.dataset)
        return [*(line for line in about if line), *begun]

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
        teacher, start = self.teachers.of(config), self.start(config)
        others = self.teachers.others(config)
        return config_key(
            config,
            student=self.student(config),
            data_fingerprint=self.dataset.fingerprint,
            teacher_fingerprint=self._fingerprint(teacher),
            start_fingerprint=self._fingerprint(start) or UNTRAINED if start else None,
            others={role: self._fingerprint(one) for role, one in others.items()},
        )

    def _fingerprint(self, network: Recipe | Filed | None) -> str | None:
        card = self.cards.get(network.file) if network else None
        return card.fingerprint if card else None

    def job(self, config: TrialConfig, trial_id: str, attempt: int, **changes: Any) -> Job:
        """The work order of an attempt at a trial.

        ``KDSWEEP_CHECKPOINT_SECONDS`` in the environment of the driver sets the least time
        between two checkpoints of a trial; the default is 60.
        """
        teacher, start = self.teachers.of(config), self.start(config)
        seconds = checkpoint_seconds()
        job = Job(
            config=config.to_dict(),
            sweep=self.sweep,
            trial_id=trial_id,
            results=self.results,
            data_dir=self.data_dir,
            teacher=teacher.file if teacher else None,
            teacher_fingerprint=self._fingerprint(teacher),
            others={
                role: (one.file, self._fingerprint(one))
                for role, one in self.teachers.others(config).items()
            },
            start=start.file if start else None,
            start_fingerprint=self._fingerprint(start),
            attempt=attempt,
            cpus=self.cpus,
            gpus=self.gpus,
            constraints=self.study.constraints,
        )
        timed = {} if seconds is None else {"checkpoint_seconds": seconds}
        return replace(job, **timed | changes)

    def corners(self) -> Iterator[tuple[Value | None, TrialConfig]]:
        """Configs with every combination of the choices that shape the networks, by pair."""
        roles = filter(chooses_teacher, self.study.space)
        for drawn in self.study.space.corners({PAIR, *SHAPING, *PARTS, *roles}):
            yield drawn.get(PAIR), self.study.config(drawn)

    def _teacher_params(self, config: TrialConfig) -> int | None:
        teacher = self.teachers.of(config)
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
