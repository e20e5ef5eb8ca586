"""Training: one trial, epoch by epoch. Knows no Ray and no files."""

import time
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.batches import epoch_order, train_batches
from trainables.data.dataset import Dataset, Images
from trainables.data.resident import place_images
from trainables.data.split import stratified_split, stratified_subset
from trainables.data.views import ViewPlan, to_float
from trainables.engine.answers import check_answers, check_score
from trainables.engine.compiling import CompiledNetwork
from trainables.engine.feeding import Feed, Feeder
from trainables.engine.precision import choose_precision, computing
from trainables.engine.remembering import remembering
from trainables.errors import Diverged, UserError
from trainables.evaluation import Score, score
from trainables.methods.method import Method
from trainables.methods.term import Batch
from trainables.models.observe import observe
from trainables.models.outputs import Network, Outputs
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.optimizer import make_optimizer
from trainables.randomness import random_state, restore_random_state, seed_everything
from trainables.schedule import learning_rate
from trainables.teachers.teacher import Teacher

ASKED_FIRST = 8
"""Images that the teacher is shown before a training, to see whether it says numbers at all."""

ASKED_AGAIN = 16
"""Batches that it is shown again after a loss broke, to see whose fault that was."""


class Training:
    """A student under training.

    Everything random follows from ``config.seed`` (initialisation, order, dropout) and
    ``config.view_seed`` (augmented views), so that equal configs give equal students on equal
    hardware, in whatever process and after whatever interruption.

    Args:
        config: the trial.
        dataset: its data; only `test` reads the test set.
        student: name of the network to train, as `choose_student` resolved it.
        teacher: the frozen teacher; None for a method without one.
        device: where everything lives.

    Attributes:
        epoch: epochs done.
        student: the network under training.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        student: str,
        teacher: Teacher | None,
        device: torch.device,
    ) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.precision = self._precision(config.precision, student, "train")
        seed_everything(config.seed)
        self.student = create_model(student, dataset.num_classes, dataset.image_shape)
        self.method = Method(
            config.method,
            config.terms,
            output_shapes(self.student, dataset.image_shape),
            output_shapes(teacher.network, dataset.image_shape) if teacher else None,
        )
        self.teacher = teacher if self.method.needs else None
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.student.to(device).to(memory_format=layout)
        self.forward = CompiledNetwork(self.student, student) if config.compile else self.student
        self.train_indices, self.val_indices = stratified_split(
            dataset.train.labels, config.val_fraction, config.split_seed
        )
        self.train_indices = stratified_subset(
            dataset.train.labels, self.train_indices, config.train_fraction, config.split_seed
        )
        if not len(self.train_indices):
            raise UserError(
                f"val_fraction: {config.val_fraction:g} of {len(dataset.train)} training images "
                "leaves none to train on; expected less, or more images"
            )
        if self.teacher:
            self.method.attach(self.teacher.network, dataset.train.labels, self.train_indices)
        self.method.recruit(
            lambda name: create_model(name or student, dataset.num_classes, dataset.image_shape)
        )
        self.method.to(device)
        for peer in self.method.peers.values():
            peer.to(memory_format=layout)
        self.labels = dataset.train.labels.to(device)
        self.views = ViewPlan(
            padding=dataset.crop_padding if config.crop_padding is None else config.crop_padding,
            flip=dataset.flip if config.flip is None else config.flip,
            seed=config.view_seed,
        )
        self.teacher_precision, self.answers = "fp32", None
        if self.teacher:
            wanted = config.teacher_precision or config.precision
            self.teacher_precision = self._precision(wanted, self.teacher.card.model, "infer")
            if self.method.plain_teacher and config.teacher_cache != "off":
                self.answers = remembering(
                    self.teacher,
                    self.method.needs,
                    dataset,
                    self.views,
                    config.teacher_cache,
                    self.teacher_precision,
                )
        images = place_images(dataset.train.images, device, config.images)
        self.feeder = Feeder(images, self.views, self.answers, device)
        trained = [*self.student.parameters(), *self.method.adaptors()]
        self.optimizer = make_optimizer(config, trained, device)
        self.peer_optimizers = {
            name: make_optimizer(config, [*peer.parameters()], device)
            for name, peer in self.method.peers.items()
        }
        self.epoch = 0
        self.train_seconds = 0.0

    def run_epoch(self) -> dict[str, Any]:
        """Trains one epoch and scores the validation split.

        Returns:
            A row of the ``epochs`` table, without its keys, and ``term_losses``: the mean
            weighted value of every summand of the loss.

        Raises:
            Diverged: naming the epoch and the summand.
            TeacherBroken: where it was the teacher that said no numbers.
        """
        started = time.perf_counter()
        self.student.train()
        self.method.train()
        order = epoch_order(self.config.seed, self.epoch, self.train_indices)
        plan = train_batches(order, self.config.batch_size)
        total = torch.zeros(len(self.method.parts), device=self.device)
        for step, feed in enumerate(self.feeder(self.epoch, plan)):
            total += self.step(feed, self.epoch + step / len(plan))
        means = (total / len(plan)).tolist()  # the epoch's only wait for the device
        if self.answers:
            self.answers.flush()
        seconds = time.perf_counter() - started
        self.train_seconds += seconds
        self.epoch += 1

        terms = dict(zip(self.method.parts, means, strict=True))
        broken = [name for name, value in terms.items() if not np.isfinite(value)]
        if broken:
            again = self.feeder(self.epoch - 1, plan[:ASKED_AGAIN])
            self.check_teacher(feed.views for feed in again)
            raise Diverged(
                f"the loss became {terms[broken[0]]} in epoch {self.epoch}, "
                f"term {', '.join(broken)}; lower lr or the term's weight"
            )
        val = self.val_score()
        check_score(val, "validation", self.epoch)
        return {
            "epoch": self.epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": sum(means),
            "val_loss": val.loss if val else None,
            "val_acc": val.acc if val else None,
            "seconds": seconds,
            "images_per_second": sum(len(indices) for indices in plan) / seconds,
            "term_losses": terms,
        }

    def step(self, feed: Feed, epoch: float) -> Tensor:
        """One update on one batch.

        Args:
            feed: the batch, from ``feeder``.
            epoch: epochs done, with the fraction of the current one.

        Returns:
            The summands of the loss, ``[len(method.parts)]``, on the device.
        """
        batch = Batch(self.labels[feed.there], feed.there, epoch, epoch / self.config.epochs)
        batch = self.method.draw(batch)
        taught = self._taught(feed, batch)
        inputs = self.method.images(self._floats(feed.views), batch)
        batch = batch._replace(inputs=inputs)
        with computing(self.precision, self.device):
            losses: Tensor = self.method(self.forward(inputs), taught, batch)
        self._update(self.optimizer, losses.sum(), epoch)
        for name in self.method.learners(batch.progress):
            with computing(self.precision, self.device):
                loss = self.method.peer_loss(name, lambda: observe(self.student, inputs), batch)
            self._update(self.peer_optimizers[name], loss, epoch)
        return losses.detach()

    def _taught(self, feed: Feed, batch: Batch) -> Outputs | None:
        """What the teacher says to the very views that the student sees."""
        if self.teacher is None:
            return None
        if self.answers and feed.known:
            said = self.answers(feed.views, feed.indices, feed.known)
            return self.method.taught(said, batch)
        depth = self.method.depth
        with computing(self.teacher_precision, self.device):
            if self.method.plain_teacher:
                return self.method.taught(self.teacher(feed.views, depth=depth), batch)
            return self.teacher(feed.views, lambda images: self.method.images(images, batch), depth)

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor, epoch: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.config, epoch)
        optimizer.step()

    def val_score(self, network: Network | None = None) -> Score | None:
        """Scores the student, or a peer, on the validation split; None where there is none."""
        if not len(self.val_indices):
            return None
        return self.score(self.dataset.train, network, self.val_indices)

    def score(
        self, images: Images, network: Network | None = None, positions: Tensor | None = None
    ) -> Score:
        """Scores the student, or a peer, on images (those at ``positions``) as they are."""
        scored = network or self.student
        scored.eval()

        def logits_of(pixels: Tensor) -> Tensor:
            outputs: Outputs = scored(self._floats(pixels))
            return outputs.logits

        return score(logits_of, images, self.device, positions)

    def _floats(self, pixels: Tensor) -> Tensor:
        """uint8 images as the student takes them."""
        mean, std = self.dataset.mean, self.dataset.std
        return to_float(pixels, mean, std, channels_last=self.config.channels_last)

    def test(self) -> dict[str, Score]:
        """Scores the test set: of the student (key ``student``) and of every peer, by name.

        The only place where it is read, after the last epoch.
        """
        if self.epoch < self.config.epochs:
            raise RuntimeError("the test set is read after the last epoch only")
        images = self.dataset.read_test()
        networks = {"student": self.student, **self.method.peers}
        scores = {name: self.score(images, network) for name, network in networks.items()}
        check_score(scores["student"], "test", self.epoch)
        return scores

    def check_teacher(self, views: Iterable[Tensor] | None = None) -> None:
        """Asks the teacher whether it says numbers to some views, or to the first images.

        Raises:
            TeacherBroken: it does not.
        """
        if self.teacher is None:
            return
        if views is None:
            first = self.dataset.train.images[self.train_indices[:ASKED_FIRST]]
            views = [first.to(self.device)]
        check_answers(self.teacher, self.method, self.teacher_precision, views)

    def _precision(self, wanted: str, model: str, work: Literal["train", "infer"]) -> str:
        classes, shape = self.dataset.num_classes, self.dataset.image_shape
        return choose_precision(
            wanted, work, model, classes, shape, self.config.batch_size, self.device
        )

    @property
    def hit_rate(self) -> float | None:
        """The share of the teacher's answers that were looked up; None where none can be."""
        if self.answers is None or not self.answers.asked:
            return None
        return self.answers.found / self.answers.asked

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, RNGs included."""
        return {
            "epoch": self.epoch,
            "train_seconds": self.train_seconds,
            "precision": (self.precision, self.teacher_precision),
            "answers": (self.answers.asked, self.answers.found) if self.answers else (0, 0),
            "student": self.student.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "peer_optimizers": {
                name: optimizer.state_dict() for name, optimizer in self.peer_optimizers.items()
            },
            "rng": random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where the other training stood."""
        self.epoch, self.train_seconds = state["epoch"], state["train_seconds"]
        self.precision, self.teacher_precision = state["precision"]
        if self.answers:
            self.answers.asked, self.answers.found = state["answers"]
        self.student.load_state_dict(state["student"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, optimizer in self.peer_optimizers.items():
            optimizer.load_state_dict(state["peer_optimizers"][name])
        restore_random_state(state["rng"], self.device)
