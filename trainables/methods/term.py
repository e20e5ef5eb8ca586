"""The interfaces of a method's parts.

A `Term` adds a loss. A `LogitModifier` changes the logits that terms read, an `InputModifier` the
images that the networks see.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from trainables.data.views import Normalisation, Offsets
from trainables.methods.changes import Mix as Mix
from trainables.methods.changes import Overlay
from trainables.methods.phases import THROUGHOUT, Stretch
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.tasks.single_label import SINGLE_LABEL
from trainables.tasks.task import Task

STUDENT = "student"
"""The student among the networks of a trial, beside the names of its peers."""

NO_OTHERS: Mapping[str, Any] = MappingProxyType({})
"""Of a trial with one teacher at most: what there is of further ones, by role."""


class Batch(NamedTuple):
    """What a part of a method may know of a training batch beside the networks' outputs.

    Attributes:
        target: labels of the images: class indices ``[B]`` where the task is single-label.
        indices: positions of the images in the training set, ``[B]``.
        epoch: epochs done, with the fraction of the current one.
        progress: the share of the whole training that is done, in [0, 1).
        offsets: which views of the images are shown; None where nobody knows.
        inputs: the student's normalised input ``[B, C, H, W]``.
        mix: how images and labels are mixed; None where they are not.
        peers: what the networks that learn beside the student say to ``inputs``, by name.
        teachers: what further teachers say to exactly the same views, by role, as far as it is
            read.
        task: of the data set.
        maps: of a part that `InputModifier.reads_maps`: the stored attribution map of each image
            under the very crop and flip of its view, ``[B, 1, H, W]``, at least 0.
        overlay: what is laid over the images; None where nothing is.
        normalisation: of the images that an `InputModifier` is given; None where nobody knows.
    """

    target: Tensor
    indices: Tensor
    epoch: float
    progress: float
    offsets: Offsets | None = None
    inputs: Tensor | None = None
    mix: Mix | None = None
    peers: Mapping[str, Outputs] = MappingProxyType({})
    task: Task = SINGLE_LABEL
    maps: Tensor | None = None
    overlay: Overlay | None = None
    normalisation: Normalisation | None = None
    teachers: Mapping[str, Outputs] = NO_OTHERS

    def shares(self, classes: int) -> Tensor:
        """The share of every class in the label of each image, ``[B, classes]`` float32."""
        shares = class_shares(self.target, classes)
        return shares if self.mix is None else self.mix(shares)


def class_shares(target: Tensor, classes: int) -> Tensor:
    """1 for every true class of an image and 0 for the others, ``[B, classes]`` float32.

    Args:
        target: class indices ``[B]``; or ``[B, classes]``, in which 1 alone is a yes.
        classes: how many there are.
    """
    if target.ndim == 2:
        return (target == 1).float()
    blank = torch.zeros(len(target), classes, device=target.device)
    return blank.scatter_(1, target.unsqueeze(1), 1.0)


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy with the labels of a batch, a scalar in nats, float32.

    With mixed images it is λ · CE(z, y) + (1 − λ) · CE(z, y of the partner).

    Args:
        logits: ``[B, classes]``.
        batch: the batch.
    """
    own = batch.task.cross_entropy(logits.float(), batch.target)
    if batch.mix is None:
        return own
    other = batch.task.cross_entropy(logits.float(), batch.target[batch.mix.partner])
    return other.lerp(own, batch.mix.share)


def risen(batch: Batch, epochs: float, fraction: float | None) -> float:
    """How far a weight has risen that grows linearly from 0, in [0, 1].

    Args:
        batch: whose moment it is.
        epochs: after so many it is 1. A training that is shorter never reaches that.
        fraction: after this share of the training it is 1, however long that is; None: by epochs.
    """
    if fraction is not None:
        return min(batch.progress / fraction, 1.0) if fraction else 1.0
    return min(batch.epoch / epochs, 1.0) if epochs else 1.0


class Term(nn.Module):
    """One weighted loss between a student and its frozen teacher.

    A subclass stands in its own file beside its pure loss function and its Config:
    a frozen dataclass of `trainables.settings.setting` fields with the paper's defaults.
    Adaptors between the two networks are built in ``__init__`` from their shapes; their
    parameters are trained with the student and thrown away after training.

    Attributes:
        needs: what the term reads of the teacher: any of the fields of `Outputs`, and keys of
            its ``features``: ``module:NAME``, ``input_gradient``, ``stage_gradient:N``, and more
            (`trainables.models.features`).
            The engine computes no more than that. A setting may change it: then ``__init__``
            sets it anew. A term that needs nothing works without a teacher; it is built with
            None.
        student_needs: the keys that it reads of the student, and of its own peers. Their
            ``stage_gradient:N`` is of the teacher's greatest logit where its logits are read.
        raw_logits: whether a term that reads logits takes them as they are, not through a
            softmax, so that no `LogitModifier` may change them. A setting may change it, too.
        one_label: whether the term reads the one true class of an image, or who the image is, so
            that mixed images mean nothing to it.
        any_task: whether the term reads logits as `Task.answers` gives them, or in another way
            that means something where every class is a question by itself.
        reads_all: whether the term reads its ``needs`` of all teachers that the trial has:
            `forward` finds those of the further ones in ``batch.teachers``. Any other term reads
            one of them, which the method hands to it; a setting ``TERM.teacher`` says which.
        Config: the term's config class.
    """

    needs: frozenset[str]
    student_needs: frozenset[str] = frozenset()
    raw_logits: bool = False
    one_label: ClassVar[bool] = False
    any_task: ClassVar[bool] = False
    reads_all: ClassVar[bool] = False
    Config: ClassVar[type]

    def __init__(self, config: Any, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def reads_softmax(cls) -> bool:
        """Whether a `LogitModifier` changes what this term reads, at its default settings."""
        return "logits" in cls.needs and not cls.raw_logits

    @property
    def modifiable(self) -> bool:
        """Whether a `LogitModifier` changes what this term reads, at its own settings."""
        return self.reads_softmax() and not self.raw_logits

    @property
    def one_of_many(self) -> bool:
        """Whether the term takes it that an image is of one class: it reads which, or puts logits
        into one softmax over the classes. Terms of features alone do not."""
        reads = "logits" in self.needs or bool(self.peers(self.config))
        return self.one_label or (reads and not self.any_task)

    @property
    def depth(self) -> int | None:
        """How many of the teacher's stages the term reads, counted from the first.

        A live teacher runs no further than the method's terms read. None, as it must be for
        logits or embedding: the whole teacher.
        """
        return None

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        """Takes what the term needs of the teacher's weights and of the training set.

        Called once before training, and before the state of an interrupted one is loaded.

        Args:
            teacher: the frozen network.
            labels: ``[N, ...]`` of all images that a batch's ``indices`` may point to.
            indices: positions ``[M]`` of those that are trained on; the others are held out.
        """

    @property
    def ce_share(self) -> float:
        """The share of the cross-entropy that this term takes over, in [0, 1]."""
        return 0.0

    @property
    def stretches(self) -> Sequence[Stretch]:
        """How the term counts in which share of the training, in the order of time."""
        return THROUGHOUT

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The weighted loss, a scalar in float32.

        Args:
            student: outputs for the batch, with gradients.
            teacher: outputs for exactly the same views, without gradients; parts not in
                ``needs`` may be missing.
            batch: the batch itself.
        """
        raise NotImplementedError

    def after_step(self, batch: Batch) -> None:
        """Called without gradients when all networks have had their updates on a batch.

        Not in a phase in which the term does not count.
        """

    # Of terms whose student does not learn alone

    takes_turns: bool = False
    """Whether a network's outputs are computed anew after its update, for the losses that are
    still to come in the step. A setting may change it."""

    @classmethod
    def peers(cls, config: Any) -> Mapping[str, str | None]:
        """Networks that learn beside the student, each with an optimiser of its own.

        Returns:
            Their models by name, None for the student's own. The method calls them by the term's
            name and this one: ``dml.1``.
        """
        return {}

    def peer_loss(self, peer: Outputs, others: Mapping[str, Outputs], batch: Batch) -> Tensor:
        """The whole loss of a peer, a scalar.

        Called after the student's update, for every peer in the order of ``peers``; an earlier
        one has had its own update by then.

        Args:
            peer: its outputs for the batch, with gradients.
            others: those of the student, first, and of the other peers; no gradient may go there.
            batch: the batch.
        """
        raise NotImplementedError


class LogitModifier(nn.Module):
    """Changes the logits of both networks for all terms that put them through a softmax.

    The cross-entropy and the other terms read the logits as they are. A modifier adds no loss
    of its own; like a term, it stands in its own file and has a Config.

    Attributes:
        needs, any_task: as a term's.
        Config: the modifier's config class.
    """

    needs: frozenset[str] = frozenset({"logits"})
    any_task: ClassVar[bool] = False
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def factor(self) -> float:
        """What the losses of the terms that read the changed logits are multiplied by."""
        return 1.0

    def forward(self, logits: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of one of the networks, changed; float32."""
        raise NotImplementedError


class InputModifier(nn.Module):
    """Changes the images of a batch, and perhaps their labels.

    Student and teacher normalise images in their own ways; each gets its own normalised images
    changed in the same way.

    Attributes:
        needs: as a term's; empty for one that works without a teacher.
        plain_teacher: whether the teacher sees the views unchanged, so that its outputs can be
            looked up. `taught` then brings them in line with what the student sees.
        plain_serves: of a plain teacher's outputs, those that still mean something; None: all.
        mixes_labels: whether an image may afterwards belong to more than one class.
        reads_maps: whether it reads the teacher's stored attribution maps: `Batch.maps`.
        map_settings: which: ``target``, ``baseline``, ``steps``, ``alignment``, as `ig` has them.
        Config: the modifier's config class.
    """

    needs: frozenset[str] = frozenset()
    plain_teacher: bool = False
    plain_serves: ClassVar[frozenset[str] | None] = frozenset({"logits"})
    mixes_labels: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False
    map_settings: Mapping[str, Any] = MappingProxyType({})
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def draw(self, batch: Batch) -> Batch:
        """The batch with the random choices of this step, drawn from torch's generator."""
        return batch

    def forward(self, images: Tensor, batch: Batch) -> Tensor:
        """Normalised images ``[B, C, H, W]`` of a drawn batch, changed."""
        raise NotImplementedError

    def taught(self, teacher: Outputs, batch: Batch) -> Outputs:
        """What the teacher's outputs for the unchanged views mean for the changed ones.

        Only for ``plain_teacher``; parts that have no meaning any more are None.
        """
        return teacher
