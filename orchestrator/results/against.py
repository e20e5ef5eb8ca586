"""Our accuracies beside published ones: ``kdsweep table --against published``."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from orchestrator.results import views
from orchestrator.results.chains import model_of
from orchestrator.results.forms import ABSENT, Grid, form_of
from orchestrator.results.front import nothing_finished
from orchestrator.results.record import read_study
from orchestrator.results.store import Store
from orchestrator.results.tables import best_cells, choice
from search_spaces.published import Published, join_pair
from trainables.errors import UserError
from trainables.methods.registry import PLAIN

TEACHER = "teacher"
"""The method of the line that shows the teacher itself."""

_COLUMNS = ("ours", "published", "points", "sds")
_CSV = ("dataset", "teacher", "student", "method", "ours", "sd", "n", "published", "diff", "sds")


@dataclass(frozen=True)
class Line:
    """A method of a pair of networks. Accuracies are fractions.

    Attributes:
        method: a method's spelling, `TEACHER`, or a name of the published ``others``.
        ours: mean over our seeds; None if we have none.
        sd: over the seeds (ddof 1); None for one seed.
        n: number of seeds.
        published: None where the source has no number, or none for our data set.
    """

    method: str
    ours: float | None = None
    sd: float | None = None
    n: int = 0
    published: float | None = None

    @property
    def diff(self) -> float | None:
        """Ours minus published."""
        if self.ours is None or self.published is None:
            return None
        return self.ours - self.published

    @property
    def sds(self) -> float | None:
        """The difference in standard deviations of ours; None where there is no spread."""
        return self.diff / self.sd if self.diff is not None and self.sd else None


@dataclass(frozen=True)
class Block:
    """The lines of one pair of networks."""

    dataset: str
    teacher: str
    student: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Comparison:
    """Sweeps of one study beside the numbers that it knows."""

    caption: str
    blocks: tuple[Block, ...]


def against_published(results: str, sweeps: Sequence[str]) -> list[Comparison]:
    """Every sweep beside the published numbers of its study; those of one study together.

    Raises:
        UserError: a sweep does not exist or has no finished trial, or its study has no
            published numbers.
    """
    groups: list[tuple[Published, list[str]]] = []
    for sweep in dict.fromkeys(sweeps):
        study = read_study(Store(results, sweep))
        if study.published is None:
            raise UserError(
                f"--against published: study '{study.name}' of sweep '{sweep}' has no published "
                "numbers (key 'published')"
            )
        for published, names in groups:
            if published == study.published:
                names.append(sweep)
                break
        else:
            groups.append((study.published, [sweep]))
    return [compare(views.trials(results, names), published) for published, names in groups]


def compare(frame: pd.DataFrame, published: Published) -> Comparison:
    """Our cells, chosen as in the compression table, beside the published ones.

    Args:
        frame: rows of ``trials``.
        published: what they are compared with, by teacher, student and method.

    Raises:
        UserError: no trial has finished.
    """
    cells = best_cells(frame, "test_acc")
    if cells.empty:
        raise nothing_finished(frame, ["test_acc"])
    students = zip(cells["student"].map(model_of), cells["steps"], strict=True)
    cells = cells.assign(student=[f"{model}{steps}" for model, steps in students])
    # Two requests for one network would be two lines of one name: the better one stands.
    cells = cells.sort_values("val_acc", ascending=False, kind="stable")
    cells = cells.drop_duplicates(["dataset", "teacher", "student", "method"])
    blocks = tuple(_blocks(cells, frame, published))
    return Comparison(_caption(cells, published), blocks)


def _blocks(cells: pd.DataFrame, frame: pd.DataFrame, published: Published) -> Iterator[Block]:
    ours: defaultdict[tuple[str, str, str], dict[str, Line]] = defaultdict(dict)
    cells = cells.assign(teacher=cells["teacher"].fillna(""))
    for cell in cells.sort_values(["dataset", "teacher", "student"]).to_dict("records"):
        ours[cell["dataset"], cell["teacher"], cell["student"]][cell["method"]] = _line(cell)
    wanted = [(published.dataset, *pair) for pair in published.pairs()]
    known = [key for key in wanted if published.dataset in set(cells["dataset"])]
    for dataset, teacher, student in list(dict.fromkeys([*known, *ours])):
        lines = [*_teacher(frame, dataset, teacher, published)] if teacher else []
        theirs: dict[str, float] = {}
        others: dict[str, float] = {}
        if dataset == published.dataset:
            theirs, others = published.of_pair(teacher, student)
        found = ours[dataset, teacher, student]
        for method in sorted({*found, *theirs}, key=_order(published)):
            line = found.get(method, Line(method))
            lines.append(_with(line, theirs.get(method)))
        lines += [_with(Line(name), number) for name, number in others.items()]
        yield Block(dataset, teacher, student, tuple(lines))


def _order(published: Published) -> Callable[[str], tuple[bool, int, str]]:
    """The plain student first, then as the source orders its methods, then by name."""
    listed = list(published.test_acc)
    rank = {method: place for place, method in enumerate(listed)}
    return lambda method: (method != PLAIN, rank.get(method, len(listed)), method)


def _line(cell: Mapping[Any, Any]) -> Line:
    sd = None if pd.isna(cell["sd"]) else float(cell["sd"])
    return Line(cell["method"], float(cell["mean"]), sd, int(cell["n"]))


def _with(line: Line, percent: float | None) -> Line:
    number = None if percent is None else percent / 100
    return Line(line.method, line.ours, line.sd, line.n, number)


def _teacher(
    frame: pd.DataFrame, dataset: str, teacher: str, published: Published
) -> Iterator[Line]:
    """The teacher's own line, if anything is known of it. One that two sweeps share is one."""
    of_it = (frame["dataset"] == dataset) & (frame["teacher"] == teacher)
    tested = frame.loc[of_it, "teacher_test_acc"].dropna().drop_duplicates()
    number = published.teacher.get(teacher) if dataset == published.dataset else None
    ours = Line(TEACHER)
    if len(tested):
        sd = float(tested.std()) if len(tested) > 1 else None
        ours = Line(TEACHER, float(tested.mean()), sd, len(tested))
    if ours.n or number is not None:
        yield _with(ours, number)


def _caption(cells: pd.DataFrame, published: Published) -> str:
    datasets = list(dict.fromkeys(cells["dataset"]))
    note = f" ({_one_line(published.note)})" if published.note else ""
    text = (
        f"{', '.join(datasets)}. Ours: test accuracy in %, mean ± sd over seeds (number of "
        f"seeds). Published: {_one_line(published.source)}{note}. Points: ours minus published; "
        "sds: the same in standard deviations of ours over seeds."
    )
    others = [name for name in datasets if name != published.dataset]
    if others:
        text += (
            f" The published numbers are for {published.dataset}: "
            f"{', '.join(others)} has none beside it."
        )
    changed = _changes(cells, published)
    text += f" Ours differ from the published protocol: {changed}." if changed else ""
    return f"{text} {choice(cells)}"


def _changes(cells: pd.DataFrame, published: Published) -> str:
    """Where our configs are not as published: ``epochs 2 instead of 240``."""
    configs = [json.loads(text) for text in cells["config"] if isinstance(text, str)]
    changes = []
    for key, value in published.protocol.items():
        ours = list(dict.fromkeys(config[key] for config in configs if key in config))
        if any(found != value for found in ours):
            changes.append(f"{key} {' or '.join(map(_short, ours))} instead of {_short(value)}")
    return ", ".join(changes)


def _short(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")


def render(comparisons: Sequence[Comparison], form: str = "text") -> str:
    """Comparisons as ``text``, ``markdown``, ``latex`` (booktabs) or ``csv`` (a row per line).

    Raises:
        UserError: ``form`` is none of these.
    """
    if form == "csv":
        return _csv(comparisons)
    write = form_of(form).write
    return "\n".join(write(one.caption, [_grid(b) for b in one.blocks]) for one in comparisons)


def _grid(block: Block) -> Grid:
    header = [join_pair(block.teacher, block.student) if block.teacher else block.student]
    return [[*header, *_COLUMNS], *([line.method, *_shown(line)] for line in block.lines)]


def _shown(line: Line) -> list[str]:
    ours = ABSENT
    if line.ours is not None:
        spread = "" if line.sd is None else f" ± {100 * line.sd:.2f}"
        ours = f"{100 * line.ours:.2f}{spread} ({line.n})"
    published = ABSENT if line.published is None else f"{100 * line.published:.2f}"
    points = ABSENT if line.diff is None else f"{100 * line.diff:+.2f}"
    return [ours, published, points, ABSENT if line.sds is None else f"{line.sds:+.1f}"]


def _csv(comparisons: Sequence[Comparison]) -> str:
    """Tidy: accuracies and differences are fractions; what is unknown is empty."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_CSV)
    for block in (block for one in comparisons for block in one.blocks):
        for line in block.lines:
            known = (line.ours, line.sd, line.n, line.published, line.diff, line.sds)
            writer.writerow([block.dataset, block.teacher, block.student, line.method, *known])
    return sink.getvalue()
