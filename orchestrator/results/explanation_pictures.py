"""A picture of why networks answer as they do: images by rows, networks and maps by columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
    lines = max((len(block.title) for block in blocks), default=0)
    above = 0.75 + 0.16 * lines
    widths = [max(_LEAST, len(block.columns) * (_CELL + _GAP)) + _BETWEEN for block in blocks]
    width = max(_LEFT + _CELL + _BETWEEN + sum(widths), 8.0)
    below = _BELOW + 0.13 * note.count("\n")
    height = above + (_CELL + _GAP) * len(images) + below
    sheet = _Sheet(Figure(figsize=(width, height), dpi=130), width, height, above, below)
    sheet.text(0.1, 0.12, title, fontsize=12, va="top")
    for row, (image, name) in enumerate(zip(images, classes, strict=True)):
        axes = sheet.cell(_LEFT, row)
        _show(axes, _picture(image))
        axes.set_ylabel(_short(name), rotation=0, ha="right", va="center", fontsize=9, color=_INK)
    sheet.text(_LEFT + _CELL / 2, above - 0.06, "image", fontsize=8, ha="center", va="bottom")
    left = _LEFT + _CELL + _BETWEEN
    for block, wide in zip(blocks, widths, strict=True):
        _draw_block(sheet, left, block, classes)
        left += wide
    signs = {column.signed for block in blocks for column in block.columns if _is_map(column)}
    _draw_scales(sheet, signs)
    sheet.text(0.1, height - 0.1, note, fontsize=7.5, va="bottom", color=_PALE)
    try:
        sheet.figure.savefig(path)
    except OSError as error:
        raise UserError(f"-o {path}: cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class _Sheet:
    """A figure in inches, from its upper left corner; rows of cells are from ``above`` on, down to
    ``below`` from the end."""

    figure: Figure
    width: float
    height: float
    above: float
    below: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def cell(self, left: float, row: int) -> Axes:
        return self.axes(left, self.above + row * (_CELL + _GAP), _CELL, _CELL)

    def text(self, left: float, top: float, text: str, **how: Any) -> None:
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, text, **{"color": _INK, **how})


def _draw_block(sheet: _Sheet, left: float, block: Block, classes: Sequence[str]) -> None:
    sheet.text(left, sheet.above - 0.28, "\n".join(block.title), fontsize=9, va="bottom")
    for number, column in enumerate(block.columns):
        here = left + number * (_CELL + _GAP)
        name = column.title.replace("_", " ")
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
        left, top = _LEFT + 3.4 * number, sheet.height - sheet.below + 0.18
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
