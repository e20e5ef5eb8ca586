"""Training: one trial, epoch by epoch. Knows no Ray and no files."""

import random
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.batches import epoch_order, train_batches
from trainables.data.dataset import Dataset, Images
from trainables.data.split import stratified_split, stratified_subset
from trainables.data.views import ViewPlan, to_float
from trainables.evaluation import Score, score
from trainables.methods.method import Method
from trainables.methods.term import Batch
from trainables.models.outputs import Outputs
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.schedule import learning_rate
from trainables.teachers.teacher import Teacher


class Diverged(ArithmeticError):
    """The training loss became NaN or infinite."""


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
        torch.manual_seed(config.seed)
        random.seed(config.seed)
        np.random.seed(config.seed)
        self.config, self.dataset, self.device = config, dataset, device
        self.student = create_model(student, dataset.num_classes, dataset.image_shape)
        self.method = Method(
            config.method,
            config.terms,
            output_shapes(self.student, dataset.image_shape),
            output_shapes(teacher.network, dataset.image_shape) if teacher else None,
        )
        self.teacher = teacher if self.method.needs else None
        self.student.to(device).to(memory_format=torch.channels_last)
        self.train_indices, val_indices = stratified_split(
            dataset.train.labels, config.val_fraction, config.split_seed
        )
        self.train_indices = stratified_subset(
            dataset.train.labels, self.train_indices, config.train_fraction, config.split_seed
        )
        if self.teacher:
            self.method.attach(self.teacher.network, dataset.train.labels, self.train_indices)
        self.method.to(device)
        self.images = dataset.train.images.to(device)
        self.labels = dataset.train.labels.to(device)
        self.val = Images(self.images[val_indices], self.labels[val_indices])
        self.views = ViewPlan(
            padding=dataset.crop_padding if config.crop_padding is None else config.crop_padding,
            flip=dataset.flip if config.flip is None else config.flip,
            seed=config.view_seed,
        )
        self.optimizer = self._optimizer()
        self.epoch = 0
        self.train_seconds = 0.0

    def run_epoch(self) -> dict[str, Any]:
        """Trains one epoch and scores the validation split.

        Returns:
            A row of the ``epochs`` table, without its keys, and ``term_losses``: the mean
            weighted value of every summand of the loss.

        Raises:
            Diverged: naming the epoch and the summand.
        """
        started = time.perf_counter()
        self.student.train()
        self.method.train()
        order = epoch_order(self.config.seed, self.epoch, self.train_indices)
        plan = train_batches(order.to(self.device), self.config.batch_size)
        total = torch.zeros(len(self.method.parts), device=self.device)
        for step, indices in enumerate(plan):
            total += self._step(indices, self.epoch + step / len(plan))
        means = (total / len(plan)).tolist()  # the epoch's only wait for the device
        seconds = time.perf_counter() - started
        self.train_seconds += seconds
        self.epoch += 1

        terms = dict(zip(self.method.parts, means, strict=True))
        broken = [name for name, value in terms.items() if not np.isfinite(value)]
        if broken:
            raise Diverged(
                f"the loss became {terms[broken[0]]} in epoch {self.epoch}, "
                f"term {', '.join(broken)}; lower lr or the term's weight"
            )
        val = self.score(self.val)
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

    def _step(self, indices: Tensor, epoch: float) -> Tensor:
        """One update on one batch; returns the summands of the loss, on the device."""
        batch = Batch(self.labels[indices], indices, epoch, epoch / self.config.epochs)
        views = self.views.images(self.images, self.epoch, indices)
        student = self.student(to_float(views, self.dataset.mean, self.dataset.std))
        # The teacher sees the very view that the student sees, in its own normalisation.
        teacher = self.teacher(views) if self.teacher else None
        losses: Tensor = self.method(student, teacher, batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, epoch)
        self.optimizer.step()
        return losses.detach()

    def score(self, images: Images) -> Score | None:
        """Scores the student on images as they are; None where there are none."""
        if not len(images):
            return None
        self.student.eval()

        def logits_of(pixels: Tensor) -> Tensor:
            outputs: Outputs = self.student(to_float(pixels, self.dataset.mean, self.dataset.std))
            return outputs.logits

        return score(logits_of, images, self.device)

    def test(self) -> Score:
        """Scores the test set; the only place where it is read, after the last epoch."""
        if self.epoch < self.config.epochs:
            raise RuntimeError("the test set is read after the last epoch only")
        found = self.score(self.dataset.read_test())
        assert found is not None
        return found

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        parameters = [*self.student.parameters(), *self.method.parameters()]
        if config.optimizer == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=config.lr,
                momentum=config.momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
            )
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, lr=config.lr, weight_decay=config.weight_decay)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, RNGs included."""
        kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        return {
            "epoch": self.epoch,
            "train_seconds": self.train_seconds,
            "student": self.student.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if self._on_cuda else None,
                "python": random.getstate(),
                "numpy": (
                    kind,
                    torch.from_numpy(np.asarray(keys, dtype=np.int64)),
                    position,
                    has_gauss,
                    cached,
                ),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where the other training stood."""
        self.epoch, self.train_seconds = state["epoch"], state["train_seconds"]
        self.student.load_state_dict(state["student"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        rng = state["rng"]
        torch.set_rng_state(rng["torch"].cpu())
        if rng["cuda"] is not None and self._on_cuda:
            torch.cuda.set_rng_state(rng["cuda"].cpu(), self.device)
        version, internal, gauss = rng["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = rng["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"
