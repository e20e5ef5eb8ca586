"""A teacher trained in place: plainly, or distilled from a larger one as its assistant."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from trainables.config import TrialConfig
from trainables.data.sources import load_dataset
from trainables.errors import TrainingFailed, UserError
from trainables.experiment import config_key
from trainables.job import PROGRESS, STUDENT, Job, Run
from trainables.methods.registry import needs_teacher
from trainables.models.blueprint import Blueprint
from trainables.models.registry import canonical_name
from trainables.models.weights import Card, read_network
from trainables.teachers.filing import file_teacher
from trainables.teachers.pretrained import fingerprint_of, read_features
from trainables.teachers.teacher import find_teacher, teacher_folder
from trainables.trial_settings import WEIGHTS

log = logging.getLogger(__name__)

TEACHERS = "teachers"


@dataclass(frozen=True)
class Filed:
    """A teacher that is there already: imported, or adopted from a sweep.

    Attributes:
        file: its file in the results folder, without suffix.
        card: its facts.
    """

    file: str
    card: Card

    @property
    def name(self) -> str:
        """Under which rows refer to it."""
        return self.card.name

    @property
    def blueprint(self) -> Blueprint:
        """What the network is."""
        return self.card.blueprint

    @property
    def key(self) -> str:
        """What decides its outputs."""
        return self.card.fingerprint


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a teacher is trained, and the name of the file it will have.

    Attributes:
        name: under which rows refer to the teacher: the network's name, and for an assistant
            also the method and the teacher that it comes from: ``resnet32(kd:resnet110)``.
        model: canonical name of the network.
        config: its training.
        key: file name without suffix; ends in a hash of everything that decides the weights,
            of those above it too.
        upper: the teacher that it is distilled from; None where it is trained plainly.
        weights: sha256 of the file whose features it begins with; None for fresh weights.
    """

    name: str
    model: str
    config: TrialConfig
    key: str
    upper: "Recipe | Filed | None" = None
    weights: str | None = None

    @property
    def file(self) -> str:
        """Its file in the results folder, without suffix."""
        return self.key

    @property
    def blueprint(self) -> Blueprint:
        """What the network is."""
        return Blueprint(self.model)

    def find(self, results: str) -> Card | None:
        """The card of the teacher where it is trained already.

        Raises:
            UserError: a teacher that came about otherwise has taken its name.
        """
        card = find_teacher(results, self.key)
        if card is None:
            return None
        if card.blueprint != self.blueprint or not card.origin.startswith("{"):
            raise UserError(
                f"teacher '{self.key}' in {results} is not the one that is trained under this "
                f"name, but {card.blueprint.label} from {card.origin}; "
                "`kdsweep teacher train --replace`"
            )
        return card


def recipe(
    config: TrialConfig, data_dir: str | None, upper: Recipe | Filed | None = None
) -> Recipe:
    """The recipe of a teacher.

    Args:
        config: dataset, network (``student``), method and training; nothing is compressed.
        data_dir: as ``--data``; the data set is read for its fingerprint.
        upper: the teacher that the method reads; None for the plain method.

    Raises:
        UserError: a method without ``upper`` or the reverse; an unknown network; unfit weights.
    """
    if config.compression != "explicit":
        raise UserError("teacher: is trained as it is named, without compression")
    if needs_teacher(config.method) != (upper is not None):
        expected = "needs a teacher of its own" if upper is None else "reads nothing of a teacher"
        raise UserError(f"teacher: method '{config.method}' {expected}")
    dataset = load_dataset(config.dataset, data_dir, image_size=config.image_size)
    model = canonical_name(config.student)
    weights = None
    if config.start.startswith(WEIGHTS):
        file = str(Path(config.start.removeprefix(WEIGHTS)).expanduser().absolute())
        weights = fingerprint_of(file)
        read_features(file, model, dataset)  # refused before anything is trained
        config = config.replace(start=WEIGHTS + file)
    key = config_key(
        config,
        student=model,
        data_fingerprint=dataset.fingerprint,
        teacher_fingerprint=upper.key if upper else None,
        start_fingerprint=weights,
    )
    slug = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in model)
    name = f"{model}({config.method}:{upper.name})" if upper else model
    key = f"{slug}-{key}"
    return Recipe(name=name, model=model, config=config, key=key, upper=upper, weights=weights)


def lineage(teacher: Recipe | Filed) -> Iterator[Recipe | Filed]:
    """The teachers above a teacher from the top down, and then itself."""
    if isinstance(teacher, Recipe) and teacher.upper is not None:
        yield from lineage(teacher.upper)
    yield teacher


class TeacherTraining:
    """Trains the teacher of a recipe, or goes on with it after an interruption.

    Whoever makes one holds the `teacher_lock`.

    Args:
        recipe: what to train; the teacher above it must be there.
        results: folder or URI where the teacher will be kept.
        data_dir: as ``--data``.
        device: where.
        replacing: whether a teacher that is there already makes room for it.
    """

    def __init__(
        self,
        recipe: Recipe,
        results: str,
        data_dir: str | None,
        device: torch.device,
        *,
        replacing: bool = False,
    ) -> None:
        self.recipe, self.results, self.device = recipe, results, device
        self.replacing = replacing
        self.job = Job(
            config=recipe.config.to_dict(),
            sweep=TEACHERS,
            trial_id=recipe.key,
            results=results,
            data_dir=data_dir,
            teacher=recipe.upper.file if recipe.upper else None,
            start=recipe.config.start if recipe.weights else None,
            start_fingerprint=recipe.weights,
        )

    @functools.cached_property
    def run(self) -> Run:
        """Its training; not made where it is not needed, nor in an actor's constructor."""
        return Run(self.job, self.device)

    @functools.cached_property
    def trained(self) -> bool:
        """Whether a process that did not live to file it has trained it before."""
        if not self.job.folder.exists(STUDENT):
            return False
        try:
            read_network(self.job.folder, STUDENT)
        except (UserError, OSError) as error:
            log.warning("teacher %s is trained again: %s", self.recipe.name, error)
            return False
        return True

    def run_epoch(self) -> dict[str, Any] | None:
        """Trains one epoch and returns its row, with ``note``; None where all are done.

        Raises:
            UserError, TrainingFailed: with the teacher's name.
        """
        with self._named():
            if self.trained or self.run.finished:
                return None
            row = self.run.run_epoch() | {"note": self.run.note}
            self.run.note = None  # said once
            return row

    def finish(self) -> Card:
        """Evaluates the teacher on the test set and files it, unless another was faster.

        Raises:
            UserError, TrainingFailed: with the teacher's name.
        """
        with self._named():
            found = None if self.replacing else self.recipe.find(self.results)
            card = found or self._file()
        for name in (STUDENT, PROGRESS):
            self.job.folder.delete(name)
        return card

    def _file(self) -> Card:
        if not self.trained:
            self.run.row("completed")
        card, network = read_network(self.job.folder, STUDENT)
        card = replace(card, name=self.recipe.name)
        return file_teacher(teacher_folder(self.results), self.recipe.key, network, card)[0]

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (UserError, TrainingFailed) as error:
            raise type(error)(f"teacher {self.recipe.name}: {error}") from error


def teacher_lock(results: str, recipe: Recipe) -> FileLock | None:
    """One training per teacher, however many processes of a results folder want it.

    The system releases it when its holder dies. A bucket has none: there, two may train one
    teacher at a time. They do the same work, put whole files only, and the first to file the
    teacher decides.
    """
    folder = teacher_folder(results)
    if not folder.is_local:
        return None
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    return FileLock(Path(folder.path) / f".{recipe.key}.lock")


def waiting_for(recipe: Recipe) -> str:
    """What is said while another process holds the `teacher_lock`."""
    return f"teacher {recipe.name} is being trained by another process: waiting for it"


@contextlib.contextmanager
def _held(lock: FileLock | None, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds a lock for the length of a block; ``on_wait`` is called where another has it."""
    if lock is None:
        yield
        return
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def train_teacher(
    recipe: Recipe,
    results: str,
    data_dir: str | None,
    device: torch.device,
    on_epoch: Callable[[dict[str, Any]], None],
    say: Callable[[str], None] = log.warning,
    *,
    replacing: bool = False,
) -> Card:
    """The teacher of a recipe: found, or trained here and now, after those above it.

    Where another process trains it, that one is waited for.

    Args:
        recipe, results, data_dir, device: as for `TeacherTraining`.
        on_epoch: called with every epoch's row.
        say: gets a line of what else the user should know.
        replacing: whether one that is there is trained again, and kept under another name.
    """
    found = None if replacing else recipe.find(results)
    if found is not None:
        return found
    if isinstance(recipe.upper, Recipe):
        train_teacher(recipe.upper, results, data_dir, device, on_epoch, say)
    with _held(teacher_lock(results, recipe), lambda: say(waiting_for(recipe))):
        found = None if replacing else recipe.find(results)
        if found is not None:
            return found
        training = TeacherTraining(recipe, results, data_dir, device, replacing=replacing)
        while (row := training.run_epoch()) is not None:
            if row["note"]:
                say(row["note"])
            on_epoch(row)
        return training.finish()
