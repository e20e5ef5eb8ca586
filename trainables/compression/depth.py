"""Depth: MobileNetV2 without its last L features, L from 0 to 17 (arXiv 2503.13008)."""

from dataclasses import dataclass

from trainables.compression.step import Choice
from trainables.errors import UserError
from trainables.models.family import with_width
from trainables.models.mobilenetv2 import REMOVABLE, truncated
from trainables.models.registry import FAMILIES, canonical_name, split_width
from trainables.settings import setting

_CUT = ("mobilenetv2", "mobilenetv2_s2")


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthConfig:
    """How much is cut."""

    amount: int = setting(
        None,
        "blocks to remove from the end",
        at_least=0,
        at_most=REMOVABLE,
        search=(0, REMOVABLE),
    )


class Depth(Choice):
    """See the head of this file."""

    Config = DepthConfig

    def named(self, student: str) -> str:
        base, width = split_width(student)
        if base not in _CUT:
            if student not in FAMILIES:
                canonical_name(student)  # there is such a network at all
            raise UserError(
                f"depth: only {' and '.join(_CUT)} can be cut, whole or with a width (as in "
                f"{_CUT[0]}_x0.5), not student '{student}'"
            )
        return canonical_name(with_width(truncated(base, self.config.amount), width))
