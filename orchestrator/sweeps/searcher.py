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
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.search import Searcher

from orchestrator.sweeps.book import Ask, Book
from orchestrator.sweeps.ledger import DEATH
from trainables.failures import meaning
from trainables.job import PROGRESS, trial_folder


class StudySearcher(Searcher):
    """Hands a book's trials to Tune, and says to the book how they do.

    Args:
        book: of the sweep.
    """

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.book = book
        self._live: dict[str, Ask] = {}
        self._errors: dict[str, Callable[[], Exception | None]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        ask = self.book.next()
        if ask is None:
            return Searcher.FINISHED if self.book.finished else None
        self._live[trial_id] = ask
        return self.book.plan.job(ask.config, ask.trial_id, ask.attempt, gpus=ask.gpus).to_dict()

    def on_trial_start(self, trial_id: str, error: Callable[[], Exception | None]) -> None:
        """A trial that was suggested has got a worker: told by `Starts`.

        Args:
            trial_id: Tune's.
            error: gives what ended the worker, if it was an exception.
        """
        self._errors[trial_id] = error
        self.book.started(self._live[trial_id])

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self.book.report(self._live[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        ask = self._live.pop(trial_id, None)
        if ask is None:
            return
        raised = self._errors.pop(trial_id, lambda: None)
        if result is not None and not error:
            over = self.book.ended(ask, result)
        else:
            over = self.book.died(ask, _reason(raised()))
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
    """Tells a searcher when trials start; Tune itself tells searchers only when they end."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.on_trial_start(trial.trial_id, functools.partial(_raised, trial))


def _reason(raised: Exception | None) -> str:
    """What a row says of the end of a worker; of an exception, as of one that ended a trial."""
    if raised is None:
        return DEATH
    meant = meaning(raised)
    return f"{type(meant).__name__}: {meant}"


def _raised(trial: Any) -> Exception | None:
    """The exception in a trial's worker; None where the worker or its node died."""
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return None
    return error.cause if isinstance(error, RayTaskError) else None
