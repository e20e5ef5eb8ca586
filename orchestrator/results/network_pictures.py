"""Pictures of one network: its feature maps, its first kernels, its graph."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from trainables.inspecting.maps import FeatureMaps

_INK, _PALE = "#333333", "#777777"
_MAP, _SIGNED = "viridis", "RdBu_r"
_MOST_KERNELS, _MOST_INPUTS = 64, 16
_CELL = 1.25


def draw_features(found: FeatureMaps, path: Path, title: str) -> None:
    """A row for every image, with the mean map of every stage beside it.

    Raises:
        OSError: the file cannot be written.
    """
    rows, columns = len(found.images), 1 + len(found.stages)
    figure = _figure(1.5 * columns + 1.3, 1.5 * rows + 1.1)
    cells = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        _show(cells[row, 0], _picture(found.images[row]))
        own, said = _short(found.classes[row]), _short(found.said[row])
        cells[row, 0].set_ylabel(
            f"{own}\n(says {said})", rotation=0, ha="right", va="center", fontsize=9, color=_INK
        )
        for column, stage in enumerate(found.stages, 1):
            _show(cells[row, column], stage[row].numpy(), cmap=_MAP)
    cells[0, 0].set_title("training image", fontsize=9, color=_INK)
    for column, shape in enumerate(found.shapes, 1):
        text = f"stage {column}\n{'x'.join(map(str, shape))}"
        cells[0, column].set_title(text, fontsize=9, color=_INK)
    _head(figure, title)
    _foot(
        figure,
        "Every map is the mean over its stage's channels, from its least value (dark) to its "
        "largest (bright).",
    )
    figure.savefig(path)


def draw_kernels(name: str, weight: Tensor, path: Path, title: str) -> None:
    """The kernels of the first convolution, as colours where it sees three channels.

    Args:
        name: of the convolution.
        weight: float ``[out, in, height, width]``.
        path: file to write.
        title: the network.

    Raises:
        OSError: the file cannot be written.
    """
    outputs, inputs, height, width = weight.shape
    shown = min(outputs, _MOST_KERNELS)
    largest = float(weight.abs().max()) or 1.0
    coloured = inputs == 3
    if coloured or inputs == 1:
        pictures = list(weight[:shown])
        columns = min(8, shown)
        rows = math.ceil(shown / columns)
    else:  # a row for every kernel, a column for every input
        columns, shown = min(inputs, _MOST_INPUTS), min(shown, _MOST_INPUTS)
        rows = shown
        pictures = [
            weight[row, column : column + 1] for row in range(rows) for column in range(columns)
        ]
    figure = _figure(max(5.5, _CELL * columns), _CELL * rows + 1.2)
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    image: Any = None
    for number, cell in enumerate(cells):
        if number >= len(pictures):
            cell.set_axis_off()
            continue
        if coloured:
            _show(cell, (0.5 + 0.5 * pictures[number] / largest).permute(1, 2, 0).numpy())
        else:
            image = _show(
                cell, pictures[number][0].numpy(), cmap=_SIGNED, vmin=-largest, vmax=largest
            )
        if coloured or inputs == 1:
            cell.set_title(str(number), fontsize=8, color=_PALE, pad=2)
    size = f"{outputs} kernels of {inputs}x{height}x{width}"
    part = "" if shown == outputs else f", the first {shown}"
    _head(figure, f"{title}: {name}, {size}{part}")
    if coloured:
        _foot(
            figure,
            f"Grey is 0; the channels are red, green and blue, from {-largest:.2g} to "
            f"{largest:.2g}.",
        )
    else:
        bar = figure.colorbar(image, ax=cells.tolist(), shrink=0.8, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(labelsize=8, colors=_INK)
        if inputs > 1:
            _foot(figure, f"A row is a kernel, a column one of its {inputs} inputs.")
    figure.savefig(path)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _head(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, color=_INK)


def _foot(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=_PALE)


def _show(axes: Axes, values: Any, **how: Any) -> Any:
    image = axes.imshow(values, interpolation="nearest", **how)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return image


def _picture(image: Tensor) -> Any:
    """An image as matplotlib has it: grey where it has not three channels."""
    pixels = image.permute(1, 2, 0).numpy()
    if pixels.shape[2] == 3:
        return pixels
    return np.repeat(pixels[:, :, :1], 3, axis=2)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
