"""The interfaces of a method's parts: a term adds a loss, a modifier changes what terms read."""

from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from trainables.models.outputs import Network, Outputs, Shapes


class Batch(NamedTuple):
    """What a term may know of a training batch beside the networks' outputs.

    Attributes:
        target: class indices ``[B]``.
        indices: positions of the images in the training set, ``[B]``.
        epoch: epochs done, with the fraction of the current one.
        progress: the share of the whole training that is done, in [0, 1).
    """

    target: Tensor
    indices: Tensor
    epoch: float
    progress: float


class Term(nn.Module):
    """One weighted loss between a student and its frozen teacher.

    A subclass stands in its own file beside its pure loss function and its Config:
    a frozen dataclass of `trainables.settings.setting` fields with the paper's defaults.
    Adaptors between the two networks are built in ``__init__`` from their shapes; their
    parameters are trained with the student and thrown away after training.

    Attributes:
        needs: what the term reads of the teacher: any of ``logits``, ``embedding``,
            ``stages``. The engine computes no more than that. A setting may change it: then
            ``__init__`` sets it anew.
        raw_logits: whether a term that reads logits takes them as they are, not through a
            softmax, so that no `LogitModifier` may change them.
        Config: the term's config class.
    """

    needs: frozenset[str]
    raw_logits: ClassVar[bool] = False
    Config: ClassVar[type]

    def __init__(self, config: Any, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def reads_softmax(cls) -> bool:
        """Whether a `LogitModifier` changes what this term reads."""
        return "logits" in cls.needs and not cls.raw_logits

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        """Takes what the term needs of the teacher's weights and of the training set.

        Called once before training, and before the state of an interrupted one is loaded.

        Args:
            teacher: the frozen network.
            labels: class indices ``[N]`` of all images that a batch's ``indices`` may point to.
            indices: positions ``[M]`` of those that are trained on; the others are held out.
        """

    @property
    def ce_share(self) -> float:
        """The share of the cross-entropy that this term takes over, in [0, 1]."""
        return 0.0

    def alone(self, progress: float) -> bool:
        """Whether at this point of the training the term's loss is the only one."""
        return False

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The weighted loss, a scalar in float32.

        Args:
            student: outputs for the batch, with gradients.
            teacher: outputs for exactly the same views, without gradients; parts not in
                ``needs`` may be missing.
            batch: the batch itself.
        """
        raise NotImplementedError


class LogitModifier(nn.Module):
    """Changes the logits of both networks for all terms that put them through a softmax.

    The cross-entropy and the other terms read the logits as they are. A modifier adds no loss
    of its own; like a term, it stands in its own file and has a Config.

    Attributes:
        needs: as a term's.
        Config: the modifier's config class.
    """

    needs: frozenset[str] = frozenset({"logits"})
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
