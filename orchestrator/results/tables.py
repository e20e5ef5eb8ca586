"""The table of a paper: methods by compression, mean and spread over seeds."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pandas as pd

from orchestrator.results.bounds import Bounds, keeping, left_out
from orchestrator.results.chains import model_of, told
from orchestrator.results.forms import ABSENT, Grid, form_of
from orchestrator.results.front import nothing_finished, signs, with_confirmation
from orchestrator.results.latencies import with_latencies
from orchestrator.results.sharing import for_every_teacher
from trainables.tasks.metrics import ACC, column_as, shown_as

_PANEL = ["dataset", "teacher"]
_COLUMN = [*_PANEL, "column"]


@dataclass(frozen=True)
class Cell:
    """One method at one compression. Accuracies and other metrics are fractions.

    Attributes:
        compression: header of the column.
        compression_params: factor of the student that is shown.
        stage: ``confirm`` or ``search``: where the value comes from.
        mean: over the seeds.
        sd: over the seeds (ddof 1); None for one seed.
        n: number of seeds.
        diff: to the plain student of the same compression and stage; None if there is none.
        diff_se: standard error of the difference, paired by seed; None unless both were trained
            under the same seeds, two at least.
        val_acc: of the search; None if it was confirmed only, or the task has none.
        config_key: of the first seed; so is ``trial_id``.
        metric: by which the task selects; ``val_score`` is its value in the search, what the
            config was chosen by; None if it was confirmed only.
        best: whether no other method of the column has a better mean.
    """

    dataset: str
    teacher: str | None
    method: str
    compression: str
    compression_params: float | None
    student: str
    stage: str
    mean: float
    sd: float | None
    n: int
    diff: float | None
    diff_se: float | None
    val_acc: float | None
    config_key: str | None
    trial_id: str
    metric: str | None
    val_score: float | None
    best: bool


_CELL = [field.name for field in fields(Cell)]


@dataclass(frozen=True)
class Panel:
    """The cells of one dataset and teacher, columns from little compression to much."""

    caption: str
    cells: tuple[Cell, ...]

    @property
    def columns(self) -> list[str]:
        """The headers."""
        return list(dict.fromkeys(cell.compression for cell in self.cells))

    @property
    def methods(self) -> list[str]:
        """The plain student first, the others by name."""
        names = {cell.method for cell in self.cells}
        return sorted(names, key=lambda name: (name != "student", name))

    @property
    def mixes_stages(self) -> bool:
        """Whether some cells were confirmed and others not."""
        return len({cell.stage for cell in self.cells}) > 1


@dataclass(frozen=True)
class Table:
    """Panels, one per dataset and teacher."""

    panels: tuple[Panel, ...]


def compression_table(
    frame: pd.DataFrame, metric: str = "test_score", bounds: Bounds | None = None
) -> Table:
    """Methods by compression: for each, the config that is best on validation.

    Args:
        frame: rows of ``trials``, search and confirm.
        metric: what to show, one of `SHOWN`.
        bounds: constraints of the sweeps; a config that violates one is in no cell, and the
            caption says how many there are.

    Raises:
        UserError: the metric is unknown, no trial has finished, or all violate a constraint.
    """
    cells = best_cells(frame, metric, bounds)
    violating: Counter[tuple[str, str | None]] = cells.attrs["violating"]
    if cells.empty:
        raise nothing_finished(frame, [metric], left_out(violating.total()))
    shared = for_every_teacher(frame)
    finished = shared[shared["status"] == "completed"]
    panels = []
    for (dataset, teacher), group in cells.groupby(_PANEL, dropna=False, sort=False):
        filled = group.astype(object).where(group.notna(), None)
        rows = filled[_CELL].itertuples(index=False, name=None)
        panel = Panel("", tuple(Cell(*row) for row in rows))
        trials = finished[(finished["dataset"] == dataset) & _same(finished["teacher"], teacher)]
        caption = f"{_caption(panel, trials, metric)} {choice(group)}{_stages(panel)}"
        if without := left_out(violating[next(_places(group))]):
            caption += f" {without}."
        panels.append(replace(panel, caption=caption))
    unseen = violating.total() - sum(violating[place] for place in {*_places(cells)})
    if unseen:  # of a data set and teacher of which nothing is left to show
        last = panels.pop()
        caption = f"{last.caption} Of other teachers or data sets {left_out(unseen)}."
        panels.append(replace(last, caption=caption))
    return Table(tuple(panels))


def _places(points: pd.DataFrame) -> Iterator[tuple[str, str | None]]:
    """Data set and teacher of every row."""
    for dataset, teacher in zip(points["dataset"], points["teacher"], strict=True):
        yield dataset, teacher if isinstance(teacher, str) else None


def _same(column: pd.Series, value: object) -> pd.Series:
    return column == value if isinstance(value, str) else column.isna()


def best_cells(frame: pd.DataFrame, metric: str, bounds: Bounds | None = None) -> pd.DataFrame:
    """The cells of `compression_table`, for all datasets and teachers in one frame.

    Its ``attrs["violating"]`` is how many configs were left out, by dataset and teacher.
    """
    bounds = bounds or {}
    names = {one.name for some in bounds.values() for one in some}
    trials = for_every_teacher(with_latencies(frame, names))
    points = with_confirmation(trials, metric).dropna(subset="shown")
    kept = keeping(points, bounds)
    violating = Counter(_places(points[~kept]))
    points = points[kept]
    kinds = points["compression_kind"]
    points["steps"] = [told(*row) for row in zip(kinds, points["config"], strict=True)]
    points["column"] = [
        (f"{requested:g}x" if _by_factor(kind) else model_of(student)) + steps
        for kind, requested, student, steps in zip(
            kinds, points["compression_requested"], points["student"], points["steps"], strict=True
        )
    ]
    points["merit"] = signs(points) * points["val_score"]
    points = points.sort_values(["merit", "config_key"], ascending=[False, True])
    cell = [*_COLUMN, "method"]
    points["rivals"] = points.groupby(cell, dropna=False)["method"].transform("size")
    cells = points.drop_duplicates(cell).copy()
    cells = cells.drop(columns=["stage", "n"]).rename(
        columns={"shown": "mean", "shown_sd": "sd", "shown_n": "n", "shown_stage": "stage"}
    )
    plain = cells.loc[cells["method"] == "student", [*_COLUMN, "stage", "mean", "shown_by_seed"]]
    plain = plain.rename(columns={"mean": "plain", "shown_by_seed": "plain_by_seed"})
    cells = cells.merge(plain, on=[*_COLUMN, "stage"], how="left")
    taught = cells["method"] != "student"
    cells["diff"] = (cells["mean"] - cells["plain"]).where(taught)
    both = zip(cells["shown_by_seed"], cells["plain_by_seed"], strict=True)
    errors = pd.Series([_paired_error(*pair) for pair in both], cells.index, dtype=float)
    cells["diff_se"] = errors.where(taught)
    columns = cells.groupby(_COLUMN, dropna=False)
    cells["merit"] = signs(cells) * cells["mean"]
    cells["best"] = cells["merit"] == columns["merit"].transform("max")
    cells["achieved"] = columns["compression_params"].transform("mean")
    cells = cells.sort_values(
        [*_PANEL, "achieved", "compression_requested", "column", "method"], ignore_index=True
    )
    headers = [_headers(panel) for _, panel in cells.groupby(_PANEL, dropna=False, sort=False)]
    cells = cells.assign(compression=pd.concat(headers) if headers else "")
    cells.attrs["violating"] = violating
    return cells


def _paired_error(ours: object, plain: object) -> float:
    """Standard error of the difference of two configs, by seed; NaN where their seeds differ."""
    if not isinstance(ours, dict) or not isinstance(plain, dict) or ours.keys() != plain.keys():
        return math.nan
    differences = np.array([ours[seed] - plain[seed] for seed in ours])
    if len(differences) < 2:
        return math.nan
    return float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _headers(panel: pd.DataFrame) -> pd.Series:
    """``4.1x`` for a requested factor, ``resnet20 (4.1x)`` for a named student."""
    words = panel[["compression_kind", "column", "steps", "achieved"]]
    labels = [_header(*row) for row in words.itertuples(index=False, name=None)]
    label = pd.Series(labels, index=panel.index, dtype="str")
    # Two requests that led to one size are two columns.
    shared = panel.groupby(label)["column"].transform("nunique") > 1
    return label.where(~shared, label + " for " + panel["column"])


def _header(kind: object, column: str, steps: str, factor: float) -> str:
    if math.isnan(factor):
        return column
    return f"{factor:.1f}x{steps}" if _by_factor(kind) else f"{column} ({factor:.1f}x)"


def _by_factor(kind: object) -> bool:
    return str(kind).partition("+")[0] == "factor"


def _caption(panel: Panel, trials: pd.DataFrame, metric: str) -> str:
    own = panel.cells[0].metric
    taught = trials["teacher_test_score"].mean()
    teacher = panel.cells[0].teacher or "none"
    if not math.isnan(taught):
        teacher += f" ({100 * taught:.2f} % {shown_as('test', own)})"
    seeds = sorted({int(seed) for seed in trials["seed"].dropna()})
    known = any(cell.diff_se is not None for cell in panel.cells)
    paired = " ± its standard error, paired by seed" if known else ""
    listed = f"seeds {', '.join(map(str, seeds))}" if len(seeds) <= 6 else f"{len(seeds)} seeds"
    return (
        f"{panel.cells[0].dataset}, teacher {teacher}. {_capital(column_as(metric, own))} in %, "
        f"mean ± sd over seeds (number of seeds), and the difference in points to the plain "
        f"student of the same compression{paired}; {len(trials)} finished trials, {listed}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def choice(cells: pd.DataFrame) -> str:
    """A sentence that says how the configs of `best_cells` were chosen."""
    several = cells["rivals"] > 1
    if not several.any():
        return "Each cell has one config: nothing was chosen."
    named = list(dict.fromkeys(shown_as("val", name) for name in cells["metric"]))
    text = f"Each cell shows the config with the best {' or '.join(named)}."
    blind = int((several & cells["val_score"].isna()).sum())
    if blind:
        text += f" Of {blind} cells no config has one: they show the first by config_key."
    return text


def _stages(panel: Panel) -> str:
    if not panel.mixes_stages:
        return ""
    return " Cells marked † have no confirm trials: they did not learn from the validation images."


def render(table: Table, form: str = "text") -> str:
    """The table as ``text``, ``markdown``, ``latex`` (booktabs) or ``csv`` (a row per cell).

    Raises:
        UserError: ``form`` is none of these.
    """
    if form == "csv":
        return _csv(table)
    write, bold = form_of(form)
    return "\n".join(write(panel.caption, [_grid(panel, bold)]) for panel in table.panels)


def _grid(panel: Panel, bold: str) -> Grid:
    """Header and rows as text; ``bold`` is a format with the value as ``{}``."""
    text = {}
    for cell in panel.cells:
        shown = f"{100 * cell.mean:.2f}"
        if cell.sd is not None:
            shown += f" ± {100 * cell.sd:.2f}"
        shown = bold.format(shown) if cell.best else shown
        shown += f" ({cell.n})"
        if panel.mixes_stages and cell.stage != "confirm":
            shown += "†"
        if cell.diff is not None:
            shown += f" {100 * cell.diff:+.2f}"
        if cell.diff_se is not None:
            shown += f" ± {100 * cell.diff_se:.2f}"
        text[cell.method, cell.compression] = shown
    rows = [
        [method, *(text.get((method, column), ABSENT) for column in panel.columns)]
        for method in panel.methods
    ]
    return [["method", *panel.columns], *rows]


def _csv(table: Table) -> str:
    """Tidy: metrics are fractions; a cell without trials has no row. Where all are accuracies,
    which one is meant need not be said."""
    sink = io.StringIO()
    cells = [cell for panel in table.panels for cell in panel.cells]
    plain = all(cell.metric == ACC.name for cell in cells)
    left_out = {"best", *(("metric", "val_score") if plain else ())}
    names = [name for name in _CELL if name not in left_out]
    writer = csv.DictWriter(sink, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, cells))
    return sink.getvalue()
