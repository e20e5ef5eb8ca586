"""Width: every width of the student times a multiplier.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", arXiv 1704.04861.
"""

from dataclasses import dataclass

from trainables.compression.explicit import member
from trainables.compression.step import Choice
from trainables.errors import UserError
from trainables.models.family import with_width
from trainables.models.registry import canonical_name, family_of
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class WidthConfig:
    """How much is left."""

    amount: float = setting(
        None, "multiplier of every layer's channels", at_least=1e-4, search=(0.1, 1), log=True
    )


class Width(Choice):
    """See the head of this file."""

    Config = WidthConfig

    def named(self, student: str) -> str:
        if family_of(member(student, "width")) is None:
            raise UserError(f"width: '{student}' is not of this zoo and has no width multiplier")
        return canonical_name(with_width(student, self.config.amount))
