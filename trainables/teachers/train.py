"""A teacher trained in place: the plain student method on a large network."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainables.config import TrialConfig, config_key
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.job import PROGRESS, STUDENT, Job, Run
from trainables.methods.registry import PLAIN
from trainables.models.registry import canonical_name
from trainables.models.weights import SUFFIX, Card, read_network, save_network
from trainables.teachers.teacher import find_teacher, teacher_folder

TEACHERS = "teachers"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a teacher is trained, and the name of the file it will have.

    Attributes:
        name: the network's name, under which rows refer to the teacher.
        config: its training, method ``student``.
        key: file name without suffix; a hash of everything that decides the weights.
    """

    name: str
    config: TrialConfig
    key: str


def recipe(config: TrialConfig, data_dir: str | None) -> Recipe:
    """The recipe of a teacher.

    Args:
        config: dataset, network (``student``) and training; must be the plain method.
        data_dir: as ``--data``; the data set is read for its fingerprint.
    """
    if config.method != PLAIN or config.compression != "explicit":
        raise UserError("teacher: is trained plainly, without method or compression")
    dataset = load_dataset(config.dataset, data_dir, image_size=config.image_size)
    name = canonical_name(config.student)
    key = config_key(
        config, student=name, data_fingerprint=dataset.fingerprint, teacher_fingerprint=None
    )
    slug = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
    return Recipe(name=name, config=config, key=f"{slug}-{key}")


class TeacherTraining:
    """Trains the teacher of a recipe, or goes on with it after an interruption.

    Args:
        recipe: what to train.
        results: folder or URI where the teacher will be kept.
        data_dir: as ``--data``.
        device: where.
    """

    def __init__(
        self, recipe: Recipe, results: str, data_dir: str | None, device: torch.device
    ) -> None:
        self.recipe, self.results = recipe, results
        job = Job(
            config=recipe.config.to_dict(),
            sweep=TEACHERS,
            trial_id=recipe.key,
            results=results,
            data_dir=data_dir,
        )
        self.run = Run(job, device)
        # Trained before, by a process that did not live to file it.
        self.trained = job.folder.exists(STUDENT)

    def run_epoch(self) -> dict[str, Any] | None:
        """Trains one epoch and returns its row; None where all are done."""
        return None if self.trained or self.run.finished else self.run.run_epoch()

    def finish(self) -> Card:
        """Evaluates the teacher on the test set and files it."""
        if not self.trained:
            self.run.row("completed")
        card, network = read_network(self.run.job.folder, STUDENT)
        file = self.recipe.key + SUFFIX
        card = save_network(
            teacher_folder(self.results), file, network, replace(card, name=self.recipe.name)
        )
        for name in (STUDENT, PROGRESS):
            self.run.job.folder.delete(name)
        return card


def train_teacher(
    recipe: Recipe,
    results: str,
    data_dir: str | None,
    device: torch.device,
    on_epoch: Callable[[dict[str, Any]], None],
) -> Card:
    """The teacher of a recipe: found, or trained here and now.

    Args:
        recipe, results, data_dir, device: as for `TeacherTraining`.
        on_epoch: called with every epoch's row.
    """
    found = find_teacher(results, recipe.key)
    if found is not None:
        return found
    training = TeacherTraining(recipe, results, data_dir, device)
    while (row := training.run_epoch()) is not None:
        on_epoch(row)
    return training.finish()
