"""How an architecture family presents itself to the registry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from trainables.models.outputs import Network

ImageShape = tuple[int, int, int]
"""``(C, H, W)`` of one image."""


class Design(NamedTuple):
    """One architecture, not yet built.

    Attributes:
        name: canonical name, one per architecture.
        build: ``(classes, image_shape)`` to a network with fresh weights.
    """

    name: str
    build: Callable[[int, ImageShape], Network]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Architectures that differ in depth and width only.

    Attributes:
        name: name of the family.
        pattern: how its members are named.
        description: one line for help texts.
        paper: where the architecture was published.
        example: the name of one member.
        members: the usual members, for help texts and suggestions.
        parse: ``(base name, width multiplier)`` to a design; None if the name belongs to
            another family; UserError if it belongs here but cannot be built.
        ladder: chains of members, each of growing parameter count: what a compression factor
            chooses from.
    """

    name: str
    pattern: str
    description: str
    paper: str
    example: str
    members: tuple[str, ...]
    parse: Callable[[str, float], Design | None]
    ladder: tuple[tuple[str, ...], ...]


def number(value: float) -> str:
    """A width as names write it: ``2``, ``0.5``, without the noise of floating point."""
    return f"{value:.10g}"


def with_width(base: str, width: float) -> str:
    """``base`` with the suffix of a width multiplier; no suffix for 1."""
    return base if number(width) == "1" else f"{base}_x{number(width)}"


def width_ladder(
    name: Callable[[int, float], str], depths: tuple[int, ...], stem: int, widest: int
) -> tuple[tuple[str, ...], ...]:
    """For every depth its members by growing width: by single channels up to 16, then by an
    eighth of the power of two below, so that every usual width is met.

    Args:
        name: ``(depth, width multiplier)`` to the name of the member.
        depths: numbers of layers.
        stem: channels of the first stage at multiplier 1.
        widest: channels of the first stage of the widest member, a multiple of 16.
    """
    return tuple(
        tuple(name(depth, channels / stem) for channels in _channels(depth, widest))
        for depth in depths
    )


def _channels(depth: int, widest: int) -> list[int]:
    # Deep and very thin networks are slow for their size and hard to train.
    channels = [max(2, depth // 6)]
    while channels[-1] < widest:
        octave = 1 << (channels[-1].bit_length() - 1)
        channels.append(channels[-1] + max(1, octave // 8))
    return channels
