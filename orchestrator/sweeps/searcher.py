"""StudySearcher: a sweep's book as Ray Tune calls it.

Why our own and not Ray's OptunaSearch: that one knows no early-stopped trials, leaves failed
ones running for ever, trains duplicates, and keeps its state in pickles.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune import Callback
from ray.tune.search import Searcher

from orchestrator.sweeps.book import Ask, Book
from orchestrator.sweeps.deaths import DEATH, how_it_died
from trainables.failures import meaning
from trainables.job import PROGRESS, trial_folder

_LOW_ON_MEMORY = "killed due to the node running low on memory"


class StudySearcher(Searcher):
    """Hands a book's trials to Tune, and says to the book how they do.

    Args:
        book: of the sweep.

    Attributes:
        raised: what ended the worker of one of Tune's trials, as far as it is known: by `Starts`.
    """

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.book = book
        self._live: dict[str, Ask] = {}
        self.raised: Callable[[str], Exception | None] = lambda trial_id: None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        ask = self.book.next()
        if ask is None:
            return Searcher.FINISHED if self.book.finished else None
        self._live[trial_id] = ask
        return self.book.plan.job(ask.config, ask.trial_id, ask.attempt, gpus=ask.gpus).to_dict()

    def on_trial_start(self, trial_id: str) -> None:
        """A trial that was suggested has got a worker: told by `Starts`."""
        self.book.started(self._live[trial_id])

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self.book.report(self._live[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        ask = self._live.pop(trial_id, None)
        if ask is None:
            return
        if result is not None and not error:
            over = self.book.ended(ask, result)
        else:
            over = self.book.died(ask, _reason(self.raised(trial_id)))
        if over:
            # Kept until now: whoever dies before the row is on disk has not trained for nothing.
            plan = self.book.plan
            with contextlib.suppress(OSError):
                trial_folder(plan.results, plan.sweep, ask.trial_id).delete(PROGRESS)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher at the start, for a restore that we do otherwise.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return False


class Starts(Callback):
    """Tells a searcher when trials start, for Tune tells searchers only when they end, and where
    it may read how."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        # All of them: a worker that does not come up ends a trial that has never started.
        self._searcher.raised = functools.partial(_raised, trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.on_trial_start(trial.trial_id)


def _reason(raised: Exception | None) -> str:
    """What a row says of the end of a worker; of an exception, as of one that ended a trial."""
    if raised is None:
        return DEATH
    if how := how_it_died(raised):
        return how
    meant = meaning(raised)
    return f"{type(meant).__name__}: {meant}"


def _raised(trials: list[Any], trial_id: str) -> Exception | None:
    """What ended a trial's worker: the exception in it, or Ray's; None where Tune keeps none."""
    trial = next(trial for trial in trials if trial.trial_id == trial_id)
    try:
        if trial.pickled_error_file is not None:
            error: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
            return error.cause if isinstance(error, RayTaskError) else error
        words = Path(trial.error_file).read_text()  # of Ray's errors that are not of an actor
    except (OSError, TypeError):
        return None
    return OutOfMemoryError(words) if _LOW_ON_MEMORY in words else None
