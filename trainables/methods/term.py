"""The interface of a distillation term."""

from typing import Any, ClassVar

from torch import Tensor, nn

from trainables.models.outputs import Outputs, Shapes


class Term(nn.Module):
    """One weighted loss between a student and its frozen teacher.

    A subclass stands in its own file beside its pure loss function and its Config:
    a frozen dataclass of `trainables.settings.setting` fields with the paper's defaults.
    Adaptors between the two networks are built in ``__init__`` from their shapes; their
    parameters are trained with the student and thrown away after training.

    Attributes:
        needs: what the term reads of the teacher: any of ``logits``, ``embedding``,
            ``stages``. The engine computes no more than that.
        Config: the term's config class.
    """

    needs: ClassVar[frozenset[str]]
    Config: ClassVar[type]

    def __init__(self, config: Any, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.config = config

    @property
    def ce_share(self) -> float:
        """The share of the cross-entropy that this term takes over, in [0, 1]."""
        return 0.0

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The weighted loss, a scalar in float32.

        Args:
            student: outputs for the batch, with gradients.
            teacher: outputs for exactly the same views, without gradients; parts not in
                ``needs`` may be missing.
            target: class indices ``[B]``.
        """
        raise NotImplementedError
