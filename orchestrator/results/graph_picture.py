"""The graph of a network as a picture: boxes from top to bottom, long networks in columns."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Line

from trainables.inspecting.graph import Box

_INK, _PALE = "#333333", "#777777"
_FILLS = {"conv": "#d9e8f5", "linear": "#d9e8f5", "+": "#fbe3cf", "images": "#eeeeee"}
_OTHER = "#e3f1e3"
_WIDTH, _HEIGHT, _GAP = 2.5, 0.44, 0.3
"""Of a box, and between two below each other, in inches."""

_LANE, _COLUMN = 2.75, 1.0
_MOST_RANKS = 24
"""Boxes below each other, from which on a network is drawn in several columns."""

Place = tuple[float, float]


def draw_graph(boxes: Sequence[Box], path: Path, title: str) -> None:
    """Draws a network.

    Args:
        boxes: as `trainables.inspecting.graph.graph_of` finds them.
        path: ``.svg`` or ``.png``.
        title: above it.

    Raises:
        OSError: the file cannot be written.
    """
    ranks = _ranks(boxes)
    lanes = _lanes(boxes, ranks)
    columns = _columns(boxes, ranks)
    places, left, size = _places(boxes, ranks, lanes, columns)
    width, height = size[0] + 0.6, size[1] + 1.0
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.3, width - 0.3)
    axes.set_ylim(-height + 0.75, 0.75)
    axes.set_axis_off()
    axes.text(0, 0.45, title, fontsize=12, color=_INK, va="center")
    for box in boxes:
        for source in box.inputs:
            both = (lanes[source], lanes[box])
            apart = ranks[box] - ranks[source]
            column = columns[ranks[box]]
            edge = None if columns[ranks[source]] == column else left[column]
            _edge(axes, _way(places[source], places[box], both, apart, edge))
    for box in boxes:
        _box(axes, box, places[box])
    # Text as text: it can be searched. Equal networks give equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdsweep"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _ranks(boxes: Sequence[Box]) -> dict[Box, int]:
    """How far down a box is: one below the lowest that it reads."""
    ranks: dict[Box, int] = {}
    for box in boxes:
        ranks[box] = 1 + max((ranks[one] for one in box.inputs), default=-1)
    return ranks


def _lanes(boxes: Sequence[Box], ranks: dict[Box, int]) -> dict[Box, int]:
    """0 for the longest way through the network; others beside it, side by side."""
    lanes: dict[Box, int] = {}
    box = max(boxes, key=lambda one: ranks[one])
    while True:
        lanes[box] = 0
        if not box.inputs:
            break
        box = max(box.inputs, key=lambda one: ranks[one])
    taken: dict[int, set[int]] = {}
    for box in boxes:
        if box not in lanes:
            held = taken.setdefault(ranks[box], set())
            before = [lanes[one] for one in box.inputs if lanes.get(one)]
            lane = next(n for n in [*before, *range(1, len(boxes) + 1)] if n not in held)
            held.add(lane)
            lanes[box] = lane
    return lanes


def _columns(boxes: Sequence[Box], ranks: dict[Box, int]) -> list[int]:
    """The column of every rank: broken only where a single box is read across."""
    last = max(ranks.values())
    crossing: list[set[Box]] = [set() for _ in range(last + 1)]
    for box in boxes:
        for source in box.inputs:
            for rank in range(ranks[source], ranks[box]):
                crossing[rank].add(source)
    columns, column, begun = [], 0, 0
    count = -(-(last + 1) // _MOST_RANKS)
    each = -(-(last + 1) // count)
    for rank in range(last + 1):
        columns.append(column)
        if rank - begun + 1 >= each and len(crossing[rank]) == 1:
            (source,) = crossing[rank]
            if ranks[source] == rank:
                column, begun = column + 1, rank + 1
    return columns


def _places(
    boxes: Sequence[Box], ranks: dict[Box, int], lanes: dict[Box, int], columns: list[int]
) -> tuple[dict[Box, Place], list[float], Place]:
    """The centre of every box, the left edge of every column, and the size of it all."""
    first = {column: rank for rank, column in reversed([*enumerate(columns)])}
    left, edge = [], 0.0
    for column in sorted(first):
        wide = max((lanes[box] for box in boxes if columns[ranks[box]] == column), default=0)
        left.append(edge)
        edge += _COLUMN + _WIDTH + _LANE * wide
    places = {}
    for box in boxes:
        column = columns[ranks[box]]
        x = left[column] + _COLUMN / 2 + _WIDTH / 2 + _LANE * lanes[box]
        places[box] = (x, -(ranks[box] - first[column]) * (_HEIGHT + _GAP))
    return places, left, (edge, -min(y for _, y in places.values()) + _HEIGHT)


def _box(axes: Axes, box: Box, place: Place) -> None:
    x, y = place
    kind = box.does[0].split()[0]
    patch = FancyBboxPatch(
        (x - _WIDTH / 2, y - _HEIGHT / 2),
        _WIDTH,
        _HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=_FILLS.get(kind, _OTHER),
        edgecolor="#999999",
        linewidth=0.7,
    )
    axes.add_patch(patch)
    above = 0.085 if box.name else 0.0
    axes.text(
        x, y + above, _fitting(box.label, 40), fontsize=8, color=_INK, ha="center", va="center"
    )
    below = f"{_fitting(box.name, 30)}   {box.shape}" if box.name else ""
    if below:
        axes.text(x, y - 0.115, below, fontsize=6.5, color=_PALE, ha="center", va="center")
    elif box.shape:
        axes.text(
            x + _WIDTH / 2 - 0.06,
            y - 0.115,
            box.shape,
            fontsize=6.5,
            color=_PALE,
            ha="right",
            va="center",
        )


def _edge(axes: Axes, way: Sequence[Place]) -> None:
    """A line with rounded corners, and a head where it ends."""
    points, codes = [way[0]], [Line.MOVETO]
    for before, corner, after in zip(way, way[1:], way[2:], strict=False):
        points += [_towards(corner, before), corner, _towards(corner, after)]
        codes += [Line.LINETO, Line.CURVE3, Line.CURVE3]
    line = Line([*points, way[-1]], [*codes, Line.LINETO])
    axes.add_patch(PathPatch(line, facecolor="none", edgecolor=_PALE, linewidth=0.9, zorder=0))
    x, y = way[-1]
    if way[-2][0] == x:
        axes.plot([x], [y + 0.03], marker="v", ms=4, color=_PALE, lw=0)
    else:
        right = way[-2][0] < x
        shift = -0.03 if right else 0.03
        axes.plot([x + shift], [y], marker=">" if right else "<", ms=4, color=_PALE, lw=0)


def _towards(corner: Place, other: Place) -> Place:
    """Where the rounding of a corner begins, on the way to another point."""
    (x0, y0), (x1, y1) = corner, other
    length = max(abs(x1 - x0), abs(y1 - y0))
    part = min(0.12, length / 2) / length if length else 0.0
    return x0 + part * (x1 - x0), y0 + part * (y1 - y0)


def _way(
    start: Place, end: Place, lanes: tuple[int, int], ranks: int, edge: float | None
) -> list[Place]:
    """The corners of a line from one box to another that it is not to cross.

    Args:
        start, end: their centres.
        lanes: of both.
        ranks: how far apart they are.
        edge: left of the column of the end, where that is another one; else None.
    """
    (x0, y0), (x1, y1) = start, end
    top, bottom = y0 - _HEIGHT / 2, y1 + _HEIGHT / 2
    left, right = -_WIDTH / 2, _WIDTH / 2
    if edge is not None:
        gap = edge + 0.15
        across = [(x0, top), (x0, top - 0.2), (gap, top - 0.2)]
        if y1 < 0 and not lanes[1]:  # further down
            return [*across, (gap, y1), (x1 + left, y1)]
        return [*across, (gap, bottom + 0.2), (x1, bottom + 0.2), (x1, bottom)]
    if lanes[0] < lanes[1]:
        return [(x0 + right, y0), (x1, y0), (x1, bottom)]
    if lanes[0] > lanes[1]:
        return [(x0, top), (x0, y1), (x1 + right, y1)]
    if ranks > 1:
        bend = x0 + left - 0.15 - min(0.2, 0.02 * ranks)
        return [(x0 + left, y0), (bend, y0), (bend, y1), (x1 + left, y1)]
    return [(x0, top), (x1, bottom)]


def _fitting(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
