"""A picture of why networks answer as they do: images by rows, networks and maps by columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from orchestrator.results.picture_file import check_picture
from trainables.errors import UserError

_INK, _PALE = "#333333", "#777777"
_FOR, _SIGNED = "viridis", "RdBu_r"
_CELL, _GAP, _BETWEEN, _LEAST = 1.1, 0.16, 0.45, 2.7
"""Inches: of a map, around it, between networks, of a network's titles."""
_LEFT, _BELOW = 1.25, 0.92
_WIDEST = 28.0
"""Inches of networks side by side."""
_LETTER, _NOTED, _NAME = 0.075, 0.066, 21
"""Inches of a letter of a network's title and of the note; letters of a column's title."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """The maps of one kind, of one network.

    Attributes:
        title: the explainer or the stage.
        values: float ``[n, h, w]`` with a map of every image; or images, uint8 ``[n, C, H, W]``,
            that are shown as they are.
        signed: whether maps may also speak against the class: values below 0.
    """

    title: str
    values: Any
    signed: bool = False


@dataclass(frozen=True, kw_only=True)
class Block:
    """One network.

    Attributes:
        title: its lines: who it is, how good and how small.
        said: of each image the class that it answers.
        columns: what is shown of it.
    """

    title: tuple[str, ...]
    said: Sequence[str]
    columns: Sequence[Column]


def draw_explanations(
    images: Any,
    classes: Sequence[str],
    blocks: Sequence[Block],
    path: Path,
    title: str,
    note: str = "",
) -> None:
    """A row for every image, side by side what every network makes of it.

    Networks that are too many for that stand in bands, each with the images again.

    A map is scaled by its own largest absolute value. A map without differences says so.

    Args:
        images: uint8 ``[n, C, H, W]``.
        classes: name of the class for which each is explained.
        blocks: the networks, from left to right.
        path: file to write, as `check_picture` takes it.
        title: above all.
        note: what else must be known, at the bottom.

    Raises:
        UserError: the file cannot be written.
    """
    check_picture(path)
    heads = [_Head.of(block) for block in blocks]
    bands = _bands(blocks, heads)
    above = 0.47 + max((head.height for head in heads), default=0.28)
    rows = above + (_CELL + _GAP) * len(images)
    width = max(8.0, *(_LEFT + _CELL + _BETWEEN + sum(h.width for _, h in band) for band in bands))
    said = [part for line in note.split("\n") for part in wrap(line, int(width / _NOTED)) or [""]]
    below = _BELOW + 0.13 * (len(said) - 1)
    height = rows * len(bands) + below
    figure = Figure(figsize=(width, height), dpi=130)
    for number, band in enumerate(bands):
        sheet = _Sheet(figure, width, height, number * rows + above)
        _draw_images(sheet, images, classes)
        left = _LEFT + _CELL + _BETWEEN
        for block, head in band:
            _draw_block(sheet, left, block, head, classes)
            left += head.width
    sheet = _Sheet(figure, width, height, height - below)
    sheet.text(0.1, 0.12, title, fontsize=12, va="top")
    signs = {column.signed for block in blocks for column in block.columns if _is_map(column)}
    _draw_scales(sheet, signs)
    sheet.text(0.1, height - 0.1, "\n".join(said), fontsize=7.5, va="bottom", color=_PALE)
    try:
        sheet.figure.savefig(path)
    except OSError as error:
        raise UserError(f"-o {path}: cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class _Sheet:
    """A figure in inches, from its upper left corner; rows of cells are from ``above`` on."""

    figure: Figure
    width: float
    height: float
    above: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def cell(self, left: float, row: int) -> Axes:
        return self.axes(left, self.above + row * (_CELL + _GAP), _CELL, _CELL)

    def text(self, left: float, top: float, text: str, **how: Any) -> None:
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, text, **{"color": _INK, **how})


@dataclass(frozen=True)
class _Head:
    """What stands above the maps of a network, broken into lines that fit; inches.

    Attributes:
        title: lines of the block's.
        columns: lines of each column's.
        width: of the block and what parts it from the next.
    """

    title: list[str]
    columns: list[list[str]]
    width: float

    @classmethod
    def of(cls, block: Block) -> "_Head":
        width = max(_LEAST, len(block.columns) * (_CELL + _GAP))
        title = [part for line in block.title for part in wrap(line, int(width / _LETTER))]
        names = (column.title.replace("_", " ") for column in block.columns)
        return cls(title, [wrap(name, _NAME) for name in names], width + _BETWEEN)

    @property
    def names(self) -> float:
        """Height of the columns' titles."""
        return 0.16 + 0.12 * max((len(lines) for lines in self.columns), default=1)

    @property
    def height(self) -> float:
        return self.names + 0.16 * len(self.title)


def _bands(blocks: Sequence[Block], heads: Sequence[_Head]) -> list[list[tuple[Block, _Head]]]:
    """The networks side by side, and below where they would be wider than `_WIDEST`."""
    bands: list[list[tuple[Block, _Head]]] = [[]]
    wide = 0.0
    for block, head in zip(blocks, heads, strict=True):
        if bands[-1] and wide + head.width > _WIDEST:
            bands.append([])
            wide = 0.0
        bands[-1].append((block, head))
        wide += head.width
    return bands


def _draw_images(sheet: _Sheet, images: Any, classes: Sequence[str]) -> None:
    for row, (image, name) in enumerate(zip(images, classes, strict=True)):
        axes = sheet.cell(_LEFT, row)
        _show(axes, _picture(image))
        axes.set_ylabel(_short(name), rotation=0, ha="right", va="center", fontsize=9, color=_INK)
    sheet.text(_LEFT + _CELL / 2, sheet.above - 0.06, "image", fontsize=8, ha="center", va="bottom")


def _draw_block(
    sheet: _Sheet, left: float, block: Block, head: _Head, classes: Sequence[str]
) -> None:
    sheet.text(left, sheet.above - head.names, "\n".join(head.title), fontsize=9, va="bottom")
    for number, column in enumerate(block.columns):
        here = left + number * (_CELL + _GAP)
        name = "\n".join(head.columns[number])
        middle = here + _CELL / 2
        sheet.text(middle, sheet.above - 0.06, name, fontsize=7.5, ha="center", va="bottom")
        for row, values in enumerate(column.values):
            axes = sheet.cell(here, row)
            _draw_cell(axes, values, column)
            said = block.said[row]
            if number == 0 and said != classes[row]:
                axes.set_xlabel(f"says {_short(said)}", fontsize=7, color="#B2182B", labelpad=0.5)


def _draw_cell(axes: Axes, values: Any, column: Column) -> None:
    if not _is_map(column):
        _show(axes, _picture(values))
        return
    values = np.asarray(values, dtype=float)
    word = ""
    if not np.isfinite(values).all():
        word = "no numbers"
    elif not values.any():
        word = "empty"
    elif np.ptp(values) <= 1e-6 * np.abs(values).max():
        word = "constant"
    if word:
        _show(axes, np.ones((*values.shape, 3)) * 0.93)
        middle = {"ha": "center", "va": "center", "fontsize": 7, "color": _PALE}
        axes.text(0.5, 0.5, word, middle, transform=axes.transAxes)
        return
    values = values / np.abs(values).max()
    low = -1 if column.signed else 0
    _show(axes, values, cmap=_SIGNED if column.signed else _FOR, vmin=low, vmax=1)


def _draw_scales(sheet: _Sheet, signs: set[bool]) -> None:
    """A bar for every scale that the maps have."""
    kinds = [(False, _FOR, "positive maps", ["0", "largest"])]
    kinds += [(True, _SIGNED, "signed maps", ["against", "0", "for the class"])]
    for number, (signed, colours, name, ends) in enumerate(k for k in kinds if k[0] in signs):
        left, top = _LEFT + 3.4 * number, sheet.above + 0.18
        scale = ScalarMappable(Normalize(-1 if signed else 0, 1), colours)
        axes = sheet.axes(left, top, 1.9, 0.12)
        bar = sheet.figure.colorbar(scale, cax=axes, orientation="horizontal")
        bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=ends)
        bar.ax.tick_params(labelsize=7, labelcolor=_INK, length=0)
        sheet.text(left - 0.1, top + 0.06, name, fontsize=8, ha="right", va="center")


def _is_map(column: Column) -> bool:
    return np.ndim(column.values) == 3


def _show(axes: Axes, values: Any, **how: Any) -> None:
    axes.imshow(values, interpolation="nearest", **how)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _picture(image: Any) -> Any:
    """An image as matplotlib has it: grey where it has not three channels."""
    pixels = np.moveaxis(np.asarray(image), 0, -1)
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
