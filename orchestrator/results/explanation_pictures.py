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

from trainables.errors import UserError

_INK, _PALE = "#333333", "#777777"
_FOR, _SIGNED = "viridis", "RdBu_r"
_CELL = 1.15
"""Inches of a map."""
SUFFIXES = (".png", ".svg", ".pdf")


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


def check_picture(path: Path) -> None:
    """Refuses a file that no picture can be written to, before anything is computed for it.

    Raises:
        UserError: another ending, or a folder that is not there.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"-o {path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"-o {path}: there is no folder {path.parent}")


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
        path: file to write, with one of `SUFFIXES`.
        title: above all.
        note: what else must be known, at the bottom.

    Raises:
        UserError: the file cannot be written.
    """
    check_picture(path)
    rows = len(images)
    widths = [1, *(len(block.columns) for block in blocks)]
    size = (_CELL * sum(widths) + 0.3 * len(blocks) + 1.4, (_CELL + 0.12) * rows + 2.2)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[size[1] - 0.75, 0.75])
    shares = [_CELL + 1.2, *(_CELL * width + 0.3 for width in widths[1:])]
    parts = upper.subfigures(1, len(shares), width_ratios=shares, squeeze=False)[0]
    _draw_images(parts[0], images, classes, max(len(block.title) for block in blocks))
    for part, block in zip(parts[1:], blocks, strict=True):
        _draw_block(part, block, classes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
    signs = {column.signed for block in blocks for column in block.columns if _is_map(column)}
    _draw_scales(lower, signs, note)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"-o {path}: cannot be written: {error.strerror}") from error


def _draw_images(part: Any, images: Any, classes: Sequence[str], lines: int) -> None:
    part.suptitle("\n" * (lines - 1), fontsize=9)  # as high as the titles beside it
    cells = part.subplots(len(images), 1, squeeze=False)
    for image, name, (axes,) in zip(images, classes, cells, strict=True):
        _show(axes, _picture(image))
        axes.set_ylabel(_short(name), rotation=0, ha="right", va="center", fontsize=9, color=_INK)
    cells[0, 0].set_title("image", fontsize=8, color=_INK)


def _draw_block(part: Any, block: Block, classes: Sequence[str]) -> None:
    part.suptitle("\n".join(block.title), fontsize=9, color=_INK)
    cells = part.subplots(len(classes), len(block.columns), squeeze=False)
    for column, found in enumerate(block.columns):
        cells[0, column].set_title(found.title.replace("_", " "), fontsize=8, color=_INK)
        for values, axes in zip(found.values, cells[:, column], strict=True):
            _draw_cell(axes, values, found)
    for name, said, axes in zip(classes, block.said, cells[:, 0], strict=True):
        if said != name:
            axes.set_xlabel(f"says {_short(said)}", fontsize=7, color="#B2182B", labelpad=1)


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
        middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, word, fontsize=7, color=_PALE, **middle)
        return
    values = values / np.abs(values).max()
    low = -1 if column.signed else 0
    _show(axes, values, cmap=_SIGNED if column.signed else _FOR, vmin=low, vmax=1)


def _draw_scales(part: Any, signs: set[bool], note: str) -> None:
    """A bar for every scale that the maps have, and the note."""
    kinds = [(False, _FOR, "positive maps", ["0", "largest of the map"])]
    kinds += [(True, _SIGNED, "signed maps", ["against", "0", "for the class"])]
    shown = [kind for kind in kinds if kind[0] in signs]
    for number, (signed, colours, name, ends) in enumerate(shown):
        axes = part.add_axes((0.12 + 0.42 * number, 0.66, 0.24, 0.16))
        scale = ScalarMappable(Normalize(-1 if signed else 0, 1), colours)
        bar = part.colorbar(scale, cax=axes, orientation="horizontal")
        bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=ends)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, colors=_INK, length=0)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, color=_INK)
    part.text(0.01, 0.04, note, ha="left", va="bottom", fontsize=7.5, color=_PALE)


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
