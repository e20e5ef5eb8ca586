"""Accuracy against compression, drawn without any global state of matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from orchestrator.results.front import (
    non_dominated,
    nothing_finished,
    with_confirmation,
)
from orchestrator.results.tables import best_cells
from trainables.columns import TRIALS
from trainables.errors import UserError, unknown
from trainables.tasks.metrics import SHOWN, column_as, headline

# Okabe & Ito's colours, told apart with any colour vision, less black and yellow (pale on white).
# Six colours by ten markers: no two of the first 30 methods look alike.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vPX<>p"
_INK = "#333333"
_MARK: dict[str, Any] = {"ms": 6, "mec": "white", "mew": 0.6, "elinewidth": 1.1, "capsize": 2}
_RING: dict[str, Any] = {"facecolors": "none", "edgecolors": _INK, "linewidths": 1.1}
_AXES = ("params", "macs", "bytes")


def accuracy_versus_compression(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    metric: str = "test_score",
    axis: str = "params",
    title: str | None = None,
) -> None:
    """Draw all finished trials, the best of each method, the front and the teacher.

    Each dataset and teacher has a panel. A light point is a trial. A marker is, per method and
    compression, the config that is best on validation, mean over seeds with sd where
    there are several; confirm trials count where there are some. The front is non-dominated
    in (metric on validation, compression) and drawn at the metric's mean.

    Args:
        frame: rows of ``trials``.
        path: file to write; ``.png`` or ``.svg``.
        metric: the y axis, one of `SHOWN`.
        axis: what the compression factor (teacher / student) of the x axis counts.
        title: above the panels, which are named by dataset and teacher.

    Raises:
        UserError: another suffix, an unknown metric or axis, no finished trial, or the file
            cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"plot '{path}': expected a file that ends in .png or .svg")
    if metric not in SHOWN:
        raise unknown("metric", metric, SHOWN)
    if axis not in _AXES:
        raise unknown("compression axis", axis, _AXES)
    factor = f"compression_{axis}"
    trials = frame[frame["status"] == "completed"].dropna(subset=[metric, factor])
    if trials.empty:
        raise nothing_finished(frame, [metric, factor])
    points = _drawable(with_confirmation(frame, metric), factor, "shown", "shown_sd")
    cells = _drawable(best_cells(frame, metric), factor, "mean", "sd")
    trials = _drawable(trials, factor, metric)
    styles = _styles(trials["method"].unique().tolist())
    panels = list(trials.groupby(["dataset", "teacher"], dropna=False))
    figure = Figure(figsize=(9, 0.9 + 4.6 * len(panels)), dpi=160, layout="constrained")
    rows = figure.subplots(len(panels), 1, squeeze=False)
    for axes, ((dataset, teacher), group) in zip(rows[:, 0], panels, strict=True):
        select = {"dataset": dataset, "teacher": teacher}
        _draw(axes, group, _of(points, select), _of(cells, select), styles)
        name = f"{dataset}, teacher {teacher}" if isinstance(teacher, str) else str(dataset)
        axes.set_title(name, loc="left", fontsize=11, color=_INK)
        own = group["metric"].dropna().iloc[0]
        axes.set_ylabel(f"{column_as(metric, own)} (%)", color=_INK)
        note = " (methods side by side)" if group["method"].nunique() > 1 else ""
        axes.set_xlabel(f"compression: {TRIALS[factor].help}{note}", color=_INK)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=_INK)
    figure.legend(
        handles=_legend(styles),
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        ncols=1 + (len(styles) > 20 * len(panels)),
        labelcolor=_INK,
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"plot '{path}' cannot be written: {error}") from error


def _drawable(frame: pd.DataFrame, factor: str, metric: str, sd: str | None = None) -> pd.DataFrame:
    """The frame with what is drawn as ``x`` (factor), ``y`` and ``spread`` (both in %)."""
    spread = frame[sd].fillna(0) if sd else 0.0
    drawn = frame.assign(x=frame[factor], y=100 * frame[metric], spread=100 * spread)
    return drawn.dropna(subset=["x", "y"])


def _of(frame: pd.DataFrame, select: dict[str, object]) -> pd.DataFrame:
    for name, value in select.items():
        frame = frame[frame[name] == value if isinstance(value, str) else frame[name].isna()]
    return frame


def _styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker per method: grey for the plain student."""
    others = sorted(set(methods) - {"student"})
    styles = {"student": ("#777777", "o")} if "student" in methods else {}
    for i, method in enumerate(others):
        styles[method] = (_COLOURS[i % len(_COLOURS)], _MARKERS[(i + 1) % len(_MARKERS)])
    return styles


def _draw(
    axes: Axes,
    trials: pd.DataFrame,
    points: pd.DataFrame,
    cells: pd.DataFrame,
    styles: dict[str, tuple[str, str]],
) -> None:
    searched = points[points["val_score"].notna()]
    better = headline(trials["metric"].iloc[0]).better
    front = searched[non_dominated(searched, {"val_score": better, "x": "max"})]
    shift = _shifts(cells, list(styles))
    trials, cells, front = (
        part.assign(x=part["x"] * part["method"].map(shift).astype(float)).sort_values("x")
        for part in (trials, cells, front)
    )
    for method, (colour, marker) in styles.items():
        light = trials[trials["method"] == method]
        axes.scatter(light["x"], light["y"], s=9, color=colour, alpha=0.25, linewidths=0, zorder=2)
        best = cells[cells["method"] == method]
        axes.plot(best["x"], best["y"], color=colour, lw=0.8, alpha=0.35, zorder=3)
        axes.errorbar(
            best["x"], best["y"], best["spread"], fmt=marker, color=colour, zorder=5, **_MARK
        )
    # Up to a student's own factor, its accuracy can be had: the step stands left of the point.
    axes.step(front["x"], front["y"], where="pre", color=_INK, lw=1.2, zorder=4)
    axes.scatter(front["x"], front["y"], s=90, zorder=6, **_RING)
    _scale(axes, trials, cells)
    _teacher(axes, trials)


def _shifts(cells: pd.DataFrame, methods: list[str]) -> dict[str, float]:
    """Set methods that share a compression side by side: a factor on x for each."""
    places = np.unique(np.log(cells["x"]))
    room = 0.6 * np.diff(places).min(initial=1.0) / len(methods)
    step = min(room, 0.02 * (0.2 + np.ptp(places))) if cells["x"].duplicated().any() else 0.0
    middle = (len(methods) - 1) / 2
    return {method: math.exp(step * (i - middle)) for i, method in enumerate(methods)}


def _scale(axes: Axes, trials: pd.DataFrame, cells: pd.DataFrame) -> None:
    low, high = trials["x"].min() / 1.1, trials["x"].max() * 1.1
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, labelsize=9)
    # A trial that broke down must not press all others into one line.
    lowest = (cells["y"] - cells["spread"]).min()
    top = max(trials["y"].max(), 100 * trials["teacher_test_score"].max())
    span = max(top - lowest, 1.0)
    bottom = max(trials["y"].min(), lowest - 0.1 * span) - 0.06 * span
    axes.set_ylim(bottom, top + 0.12 * span)
    below = int((trials["y"] < bottom).sum())
    if below:
        axes.annotate(
            f"{below} more below {bottom:.0f} %",
            (0.01, 0.015),
            xycoords="axes fraction",
            fontsize=8,
            color="#777777",
        )


def _ticks(low: float, high: float) -> list[float]:
    """Powers of two; with half steps where those are too few."""
    powers = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 1)
    whole = [2.0**power for power in powers]
    ticks = [tick for tick in whole if low <= tick <= high]
    if len(ticks) < 3:
        steps = (1, 1.25, 1.5, 1.75)
        ticks = [tick * step for tick in whole for step in steps if low <= tick * step <= high]
    return ticks


def _teacher(axes: Axes, trials: pd.DataFrame) -> None:
    height = 100 * trials["teacher_test_score"].mean()
    if math.isnan(height):
        return
    axes.axhline(height, color=_INK, lw=1.0, ls=(0, (5, 3)), zorder=3)
    axes.annotate(
        f"teacher {height:.2f} % (test)",
        (1, height),
        (0, 3),
        ha="right",
        va="bottom",
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=9,
        color=_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        zorder=7,
    )


def _legend(styles: dict[str, tuple[str, str]]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker=marker, ms=6, lw=0.9, mec="white", mew=0.6, label=name)
        for name, (colour, marker) in styles.items()
    ]
    front = Line2D(
        [], [], color=_INK, lw=1.3, marker="o", ms=9, mfc="none", label="front (on validation)"
    )
    trial = Line2D([], [], color="#999999", marker="o", ms=3, lw=0, label="one trial")
    return [*handles, front, trial]
