"""What a sweep shows while it runs: a live panel on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.results.chains import model_of, told
from orchestrator.sweeps.surroundings import Steadfast
from trainables.config import TrialConfig
from trainables.tasks.metrics import headline, percent

Row = Mapping[str, Any]

LINE_SECONDS = 15.0
MAX_LINES = 12


class Pace:
    """How long the rest of some work takes, judged by what is done since this was first asked."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, done: float) -> str:
        """``, 3 min 10 s left``; empty the first time.

        Args:
            done: the share that is done, in (0, 1].
        """
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
        share, since = self._first
        if done <= share:
            return ""
        return f", {_duration((1 - done) * (now - since) / (done - share))} left"


class Progress:
    """Counts trials, keeps the best per compression, and says how long it will take.

    Used as a context manager around the sweep.

    Args:
        title: first line of the panel.
        total: trials to end; None as long as nobody knows.
        file: where to write; a terminal gets the panel, anything else plain lines.
        verbose: whether plain lines name every trial that ends.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        file: TextIO | None = None,
        verbose: bool = True,
    ) -> None:
        self.title, self.total, self.verbose = title, total, verbose
        self._replaces = True
        # Not even a closed pipe ends a sweep of hours.
        steadfast = cast(TextIO, Steadfast(file or sys.stdout))
        self.console = Console(file=steadfast, highlight=False)
        self._live: Live | None = None
        self._started = self._last_line = time.monotonic()
        self._running: dict[str, tuple[TrialConfig, int]] = {}
        self._best: dict[str, tuple[float, float, Row]] = {}
        self.done = self.failed = self.stopped = self.answers = self.ended_before = 0
        self.retries = self.infeasible = self.violating = 0
        self._stage = ""
        self._passing = self._closed = False

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Shows the last counts, and nothing any more; once."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif not self._stage:
            self._print(self._counts())

    # What happens

    def stage(self, text: str, *, passing: bool = False) -> None:
        """What is going on before trials run, such as the teacher's training.

        Args:
            text: one line.
            passing: whether the next line makes this one old; of those, plain output shows the
                first and then a few.
        """
        first, self._passing = not (passing and self._passing), passing
        self._stage = text
        if self._live is None and (first or self._line_is_due()):
            self._print(text)

    def began(self, already: int, total: int, *, replaces: bool) -> None:
        """The trials start.

        Args:
            already: trials that ended in an earlier run.
            total: trials to end, those included.
            replaces: whether a further trial follows one that earlier results answer.
        """
        self._stage, self.ended_before, self.total = "", already, total
        self._replaces = replaces
        self._started = time.monotonic()

    def started(self, trial_id: str, config: TrialConfig) -> None:
        self._running[trial_id] = (config, 0)

    def epoch(self, row: Row, epochs: int) -> None:
        trial_id = row["trial_id"]
        if trial_id in self._running:
            self._running[trial_id] = (self._running[trial_id][0], row["epoch"])
        if self._live is None and self._line_is_due():
            self._print(self._counts())

    def ended(self, row: Row) -> None:
        self._running.pop(row["trial_id"], None)
        self.done += row["status"] == "completed"
        self.stopped += row["status"] == "stopped"
        beyond, status = row.get("violations") is not None, row["status"]
        self.infeasible += status == "infeasible" and beyond
        self.failed += status == "failed" or (status == "infeasible" and not beyond)
        self.violating += status == "completed" and beyond
        if row["status"] == "completed":
            self._note_best(row)
        if self._live is None and self.verbose:
            self._last_line = time.monotonic()
            self._print(f"{_clock()} {self._short_counts()}  {_describe(row)}")

    def retried(self, row: Row) -> None:
        """An attempt failed; another one follows."""
        self._running.pop(row["trial_id"], None)
        self.retries += 1
        if self._live is None:
            self._print(f"{_clock()} {row['trial_id']}: {row['error']}; trying again")

    def noted(self, trial_id: str, text: str) -> None:
        """Something about a trial that its user should know; it goes on."""
        self._print(f"{_clock()} {trial_id}: {text}")

    def answered(self, trial_id: str, by: str) -> None:
        self.answers += 1
        if self.total is not None and not self._replaces:
            self.total -= 1
        if self._live is None and self.verbose:
            self._print(f"{_clock()} {trial_id}: same experiment as {by}, not trained again")

    def _line_is_due(self) -> bool:
        due = time.monotonic() - self._last_line > LINE_SECONDS
        if due:
            self._last_line = time.monotonic()
        return due

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    # How it is shown

    def __rich__(self) -> Group:
        head = Text(f"{self.title}  ", style="bold")
        head.append(self._stage or self._counts(), style="none")
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("compression", "best val", "method", "student"):
            table.add_column(
                name, justify="right" if name in ("compression", "best val") else "left"
            )
        best = sorted(self._best.values(), key=lambda found: found[:2])
        for factor, val, row in best[:MAX_LINES]:
            names = str(row["method"]), str(row["student"])
            table.add_row(_factor(factor), percent(val, row.get("metric")), *names)
        running = "  ".join(
            f"{trial_id.rpartition('-')[2]} {config.method} {epoch}/{config.epochs}"
            for trial_id, (config, epoch) in list(self._running.items())[:6]
        )
        shown: list[Text | Table] = [head]
        shown += [Text(running, style="dim")] if running else []
        shown += [table] if self._best else []
        return Group(*shown)

    def _note_best(self, row: Row) -> None:
        val, factor = _score(row, "val"), row.get("compression_params")
        if val is None:
            return
        size = row.get("compression_requested") or model_of(row["student"])
        key = f"{size}{told(row.get('compression_kind'), row.get('config'))}"
        sign = 1 if headline(row.get("metric")).better == "max" else -1
        if key not in self._best or sign * val > sign * self._best[key][1]:
            self._best[key] = (factor or 1.0, val, row)

    def _counts(self) -> str:
        text = self._short_counts()
        text += f", {len(self._running)} running"
        for count, word in (
            (self.failed, "failed"),
            (self.infeasible, "not trained for their costs"),
            (self.violating, "beyond a constraint"),
            (self.stopped, "stopped early"),
            (self.retries, "tried again"),
            (self.answers, "answered from results"),
        ):
            text += f", {count} {word}" if count else ""
        ended, seconds = self._ended(), time.monotonic() - self._started
        if ended and seconds > 0:
            text += f"; {60 * ended / seconds:.1f} trials/min"
            if self.total is not None:
                left = max(0, self.total - self.ended_before - ended) * seconds / ended
                text += f", {_duration(left)} left"
        return text

    def _short_counts(self) -> str:
        total = f"/{self.total}" if self.total is not None else ""
        return f"{self.ended_before + self._ended()}{total} trials"

    def _ended(self) -> int:
        return self.done + self.failed + self.stopped + self.infeasible


def _describe(row: Row) -> str:
    """One ended trial in one line."""
    text = f"{row['trial_id']} {row['method']}"
    if row.get("student"):
        text += f" {row['student']}"
    if row.get("compression_params") is not None:
        text += f" ({_factor(row['compression_params'])})"
    if row["status"] == "completed":
        shown = [(part, _score(row, part)) for part in ("val", "test")]
        return text + "".join(
            f"  {part} {percent(value, row.get('metric'))}"
            for part, value in shown
            if value is not None
        )
    return f"{text}  {row['status']}" + (f": {row['error']}" if row.get("error") else "")


def _score(row: Row, part: str) -> float | None:
    """The headline metric; of an older version's row, the accuracy."""
    value = row.get(f"{part}_score")
    return row.get(f"{part}_acc") if value is None else value


def _factor(factor: float) -> str:
    digits = 1 if factor < 10 else 0
    return f"{factor:.{digits}f}x"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _clock() -> str:
    return time.strftime("%H:%M:%S")
