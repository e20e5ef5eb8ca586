"""The interface of a task: what it asks of a network, and how well the network answers.

A data set names its task (`Dataset.task`); see `trainables.tasks.registry`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from trainables.tasks.metrics import Metric


class Score(NamedTuple):
    """How well a network answers to a set of images.

    Attributes:
        loss: mean cross-entropy in nats.
        values: every metric of the task by name, the headline first.
        by_class: of a headline that is a mean over classes, each class's own; NaN for one that
            has none.
    """

    loss: float
    values: Mapping[str, float]
    by_class: tuple[float, ...] = ()

    @property
    def headline(self) -> float:
        """The value by which is selected."""
        return next(iter(self.values.values()))

    @property
    def acc(self) -> float | None:
        """The accuracy in [0, 1]; None for a task that has none."""
        return self.values.get("acc")

    @property
    def without_numbers(self) -> "Score":
        """The same with NaN in place of every number."""
        nan = math.nan
        return Score(nan, dict.fromkeys(self.values, nan), (nan,) * len(self.by_class))


class Task(ABC):
    """A kind of target, with its loss, its metrics and its way to split a set.

    Attributes:
        name: as data sets and cards have it.
        metrics: the headline, by which is selected, first.
        independent: whether every class is a question by itself. Then parts of a method that
            take it that an image is of one class are refused: `Term.one_of_many`.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    independent: ClassVar[bool]

    @property
    def headline(self) -> Metric:
        """The metric by which is selected."""
        return self.metrics[0]

    @abstractmethod
    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of the labels, a scalar in nats; linear in them, so that mixed images have the
        mean of the losses with both labels.

        Args:
            logits: ``[B, classes]`` float32.
            target: of the images, ``[B, ...]``.
        """

    @abstractmethod
    def answers(self, logits: Tensor) -> Tensor:
        """Logits ``[questions, answers]``: one softmax over each row is what the network says."""

    @abstractmethod
    def split(self, labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
        """Holds out a share in which every class has its share.

        Args:
            labels: of the whole set, ``[N, ...]``.
            fraction: in [0, 1); 0 holds out nothing.
            seed: the same seed holds out the same images.

        Returns:
            ``(rest, held_out)``: sorted int64 indices that together are ``0 .. N-1``.

        Raises:
            ValueError: ``fraction`` is outside [0, 1).
        """

    @abstractmethod
    def subset(self, labels: Tensor, indices: Tensor, fraction: float, seed: int) -> Tensor:
        """Keeps a share in which every class has its share, and one image at least.

        Args:
            labels: of the whole set, ``[N, ...]``.
            indices: int64 ``[M]``, the images to choose from.
            fraction: in (0, 1]; 1 keeps all.
            seed: the same seed keeps the same images.

        Returns:
            Sorted int64 indices, a subset of ``indices``.

        Raises:
            ValueError: ``fraction`` is outside (0, 1].
        """

    def score(self, said: Iterable[tuple[Tensor, Tensor]]) -> Score:
        """How good answers are. Waits for the device at the end only.

        Of a network that says NaN or an infinite value to any of the images, the loss and every
        metric are NaN, however good the rest is: sorted or compared, NaN may pass for the
        greatest number there is.

        Args:
            said: logits ``[B, classes]`` float32 and targets ``[B, ...]`` of one batch after the
                other, on one device; at least one batch.
        """
        finite: list[Tensor] = []

        def seen() -> Iterator[tuple[Tensor, Tensor]]:
            for logits, target in said:
                finite.append(logits.isfinite().all())
                yield logits, target

        found = self.measured(seen())
        return found if bool(torch.stack(finite).all()) else found.without_numbers

    @abstractmethod
    def measured(self, said: Iterable[tuple[Tensor, Tensor]]) -> Score:
        """`score`, which looks for NaN and infinite logits by itself. Reads all batches."""
