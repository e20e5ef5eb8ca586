"""Pictures of one network: its feature maps, its first kernels, its graph."""

import math
from collections.abc import Sequence
from functools import partial
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
_FINE = 3
"""Pixels of a mosaic by one of a kernel."""


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
    coloured = inputs == 3
    alone = coloured or inputs == 1
    shown = min(outputs, _MOST_KERNELS if alone else _MOST_INPUTS)
    columns = min(8, shown) if alone else min(inputs, _MOST_INPUTS)
    largest = float(weight.abs().max()) or 1.0
    values = (weight[:shown] / largest).permute(0, 2, 3, 1)  # [shown, height, width, inputs]
    if coloured:
        tiles = [*(0.5 + 0.5 * values).numpy()]
    else:  # one by one, or a row for every kernel
        tiles = [one[..., i] for one in values.numpy() for i in range(1 if alone else columns)]
    rows = math.ceil(len(tiles) / columns)
    figure = _figure(max(5.5, 0.85 * columns + 1.2), 0.85 * rows + 1.2)
    axes = figure.subplots()
    image = _show(axes, _mosaic(tiles, columns), cmap=_SIGNED, vmin=-1, vmax=1)
    across = [""] * columns if alone else [str(number) for number in range(columns)]
    axes.set_xticks(_middles(columns, width), across)
    first = [str(number * (columns if alone else 1)) for number in range(rows)]
    axes.set_yticks(_middles(rows, height), first)
    axes.tick_params(length=0, labelsize=8, labelcolor=_PALE)
    axes.set_ylabel("kernel" if not alone or columns == 1 else "first kernel of the row")
    axes.set_xlabel("" if alone else "input channel")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=8, color=_PALE)
    size = f"{outputs} kernels of {inputs}x{height}x{width}"
    part = "" if shown == outputs else f", the first {shown} of them"
    part += "" if alone or columns == inputs else f" and of their inputs {columns}"
    _head(figure, f"{title}\n{name}: {size}{part}")
    if coloured:
        ends = f"from {-largest:.2g} to {largest:.2g}"
        _foot(figure, f"Red, green and blue are the input channels, {ends}; grey is 0.")
    else:
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
        bar.set_ticks([-1, 0, 1], labels=[f"{-largest:.2g}", "0", f"{largest:.2g}"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=_INK)
    figure.savefig(path)


def _mosaic(tiles: Sequence[Any], columns: int) -> Any:
    """Tiles in rows, parted by what is drawn as nothing: a third of a pixel of theirs."""
    fine = [np.kron(tile, np.ones((_FINE, _FINE, *[1] * (tile.ndim - 2)))) for tile in tiles]
    high, wide, *channels = fine[0].shape
    rows = math.ceil(len(fine) / columns)
    blank = np.ones if channels else partial(np.full, fill_value=np.nan)
    whole: Any = blank((rows * (high + 1) - 1, columns * (wide + 1) - 1, *channels))
    for number, tile in enumerate(fine):
        top, left = (number // columns) * (high + 1), (number % columns) * (wide + 1)
        whole[top : top + high, left : left + wide] = tile
    return whole


def _middles(count: int, size: int) -> list[float]:
    """Where the middle of each of several tiles is in a mosaic."""
    step = size * _FINE + 1
    return [step * number + (step - 2) / 2 for number in range(count)]


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
