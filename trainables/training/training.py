"""Training: one trial, epoch by epoch. Knows no Ray and no files."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainables.compression.step import Step
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import Diverged
from trainables.methods.method import Method
from trainables.methods.term import NO_OTHERS, STUDENT
from trainables.models.outputs import Network
from trainables.tasks.task import Score
from trainables.teachers.maps import StoredMaps
from trainables.teachers.start import Start
from trainables.teachers.teacher import Teacher
from trainables.training.answers import check_score
from trainables.training.learner import Learner
from trainables.training.steps import take_steps
from trainables.training.stream import Stream

ASKED_FIRST = 8
"""Images that the teacher is shown before a training, to see whether it says numbers at all."""

ASKED_AGAIN = 16
"""Batches that it is shown again after a loss broke, to see whose fault that was."""


class Training:
    """One stream and one learner, through the phases of its method (`Method.phases`) and the
    moments of its chain's steps (`Step.moments`).

    Everything random follows from ``config.seed`` (initialisation, order, dropout) and
    ``config.view_seed`` (augmented views), so that equal configs give equal students on equal
    hardware, in whatever process and after whatever interruption.

    Args:
        config: the trial.
        dataset: its data; only `test` reads the test set.
        student: name of the network to train, as `Chain.choose` found it.
        teacher: the frozen teacher; None for a method without one.
        device: where everything lives.
        steps: what changes the student, in the order of the chain.
        start: what the student begins with; None for fresh weights.
        maps: attribution maps to read; None: the teacher's, computed where they are not stored.
        others: further frozen teachers, by role.

    Attributes:
        epoch: epochs done.
        begun: names of the steps that have changed the student before its first epoch; None
            until their time has come.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        student: str,
        teacher: Teacher | None,
        device: torch.device,
        steps: Sequence[Step] = (),
        start: Start | None = None,
        maps: StoredMaps | None = None,
        others: Mapping[str, Teacher] = NO_OTHERS,
    ) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.stream = Stream(config, dataset, teacher, device, maps, others)
        self.learner = Learner(config, student, self.stream, steps, start)
        self.epoch = 0
        self.begun: list[str] | None = None
        self.train_seconds = 0.0

    def begin(self) -> list[str]:
        """Takes the steps that come before the first epoch, once: see `begun`.

        `run_epoch` does it where nobody wants to see the student before.
        """
        if self.begun is None:
            self.begun = take_steps(self.learner, 0)
        return self.begun

    def run_epoch(self) -> dict[str, Any]:
        """Trains one epoch and scores the validation split.

        Returns:
            A row of the ``epochs`` table, without its keys, ``term_losses``: the mean weighted
            value of every summand of the loss, and
            ``metric`` and ``val``: the headline's name and every metric.

        Raises:
            Diverged: naming the epoch and the summand, or the step of the chain.
            TeacherBroken: where it was the teacher that said no numbers.
        """
        started = time.perf_counter()
        changed = take_steps(self.learner, self.epoch) if self.epoch else self.begin()
        plan = self.stream.plan(self.epoch)
        total = torch.zeros(len(self.method.parts), device=self.device)
        with self.learner.random:  # once for all steps: nobody else draws between them
            self.learner.train()
            for step, feed in enumerate(self.stream(self.epoch, plan)):
                total += self.learner.step(feed, self.epoch + step / len(plan))
        means = (total / len(plan)).tolist()  # the epoch's only wait for the device
        self.stream.flush()
        self.epoch += 1
        terms = dict(zip(self.method.parts, means, strict=True))
        self._check_losses(terms, changed)
        lr = self.learner.updates.optimizers[STUDENT].param_groups[0]["lr"]
        if self.epoch == self.config.epochs:
            take_steps(self.learner, self.epoch)
        seconds = time.perf_counter() - started
        self.train_seconds += seconds

        val = self.val_score()
        check_score(val, "validation", self.epoch)
        return {
            "epoch": self.epoch,
            "lr": lr,
            "train_loss": sum(means),
            "val_loss": val.loss if val else None,
            "val_acc": val.acc if val else None,
            "val_score": val.headline if val else None,
            "metric": self.stream.task.headline.name,
            "val": val.values if val else {},
            "seconds": seconds,
            "images_per_second": sum(len(indices) for indices in plan) / seconds,
            "term_losses": terms,
        }

    def _check_losses(self, terms: dict[str, float], changed: Sequence[str]) -> None:
        broken = [name for name, value in terms.items() if not np.isfinite(value)]
        if not broken:
            return
        for lesson in self.learner.lessons.values():
            first = self.stream.plan(self.epoch - 1)[:ASKED_AGAIN]
            again = self.stream(self.epoch - 1, first)
            lesson.check((feed.views, feed.there) for feed in again)
        after = f"after step {', '.join(changed)}, " if changed else ""
        raise Diverged(
            f"the loss became {terms[broken[0]]} in epoch {self.epoch}, {after}"
            f"term {', '.join(broken)}; lower lr or the term's weight"
        )

    def val_score(self, name: str = STUDENT) -> Score | None:
        """Scores the student, or a peer, on the validation split; None where there is none."""
        positions = self.stream.val_indices
        return self.learner.score(self.dataset.train, name, positions) if len(positions) else None

    def test(self) -> dict[str, Score]:
        """Scores the test set: of the student (key ``student``) and of every peer, by name.

        The only place where it is read, after the last epoch.
        """
        if self.epoch < self.config.epochs:
            raise RuntimeError("the test set is read after the last epoch only")
        images = self.dataset.read_test()
        scores = {name: self.learner.score(images, name) for name in self.learner.networks}
        check_score(scores[STUDENT], "test", self.epoch)
        return scores

    def check_teacher(self) -> None:
        """Asks the teachers whether they say numbers to the first images.

        Raises:
            TeacherBroken: one does not.
        """
        for lesson in self.learner.lessons.values():
            first = self.stream.train_indices[:ASKED_FIRST]
            views = self.dataset.train.images[first].to(self.device)
            lesson.check([(views, first.to(self.device))])

    @property
    def student(self) -> Network:
        """The learner's."""
        return self.learner.student

    @property
    def method(self) -> Method:
        """The learner's."""
        return self.learner.method

    @property
    def precision(self) -> str:
        """Of the student's arithmetic."""
        return self.learner.precision

    @property
    def teacher_precision(self) -> str | None:
        """Of the teachers'; None where nothing is read of one."""
        return next((lesson.precision for lesson in self.learner.lessons.values()), None)

    @property
    def attribution_maps(self) -> dict[str, Any] | None:
        """What is known of the teacher's maps; None where none are read."""
        return self.learner.maps.facts if self.learner.maps else None

    @property
    def hit_rate(self) -> float | None:
        """The share of the teachers' answers that were looked up; None where none can be."""
        counts = [lesson.counts for lesson in self.learner.lessons.values()]
        asked, found = (sum(column) for column in zip((0, 0), *counts, strict=True))
        return found / asked if asked else None

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, random numbers included."""
        return {
            "epoch": self.epoch,
            "begun": self.begun,
            "train_seconds": self.train_seconds,
            "stream": self.stream.state_dict(),
            "learner": self.learner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where the other training stood."""
        self.epoch, self.train_seconds = state["epoch"], state["train_seconds"]
        self.begun = state["begun"]
        self.stream.load_state_dict(state["stream"])
        self.learner.load_state_dict(state["learner"])
