"""A teacher trained in place: plainly, or distilled from a larger one as its assistant."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from trainables.errors import TrainingFailed, UserError
from trainables.job import PROGRESS, STUDENT, Job, Run
from trainables.models.weights import Card, read_network
from trainables.recipes import Recipe
from trainables.teachers.filing import file_teacher
from trainables.teachers.teacher import teacher_folder

log = logging.getLogger(__name__)

TEACHERS = "teachers"


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
