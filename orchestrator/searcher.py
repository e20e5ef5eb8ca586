"""StudySearcher: hands trials to Ray Tune and books how they end.

Why our own and not Ray's OptunaSearch: that one knows no early-stopped trials, leaves failed
ones running for ever, trains duplicates, and keeps its state in pickles.
"""

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.search import Searcher

from orchestrator.ledger import DEATH, Ledger, Row
from orchestrator.plan import Plan
from orchestrator.source import Proposal, Source
from orchestrator.store import SCHEMAS, Store
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.failures import meaning
from trainables.job import PROGRESS, trial_folder


class Watcher(Protocol):
    """Sees what happens, to show it while it runs."""

    def started(self, trial_id: str, config: TrialConfig) -> None: ...
    def epoch(self, row: Row, epochs: int) -> None: ...
    def ended(self, row: Row) -> None: ...
    def retried(self, row: Row) -> None: ...
    def noted(self, trial_id: str, text: str) -> None: ...
    def answered(self, trial_id: str, by: str) -> None: ...


@dataclass
class Ask:
    """One attempt at a trial.

    Attributes:
        group: the proposal it belongs to; ``repeat`` is its place there.
        key: the config's key; empty where the config cannot be built.
        errors: of the attempts before that failed.
        last: the trial's row as of its last result.
        error: the exception that its worker raised outside of the trial, if it did; set late.
    """

    group: "Group"
    repeat: int
    config: TrialConfig
    trial_id: str
    attempt: int = 1
    gpus: float = 0.0
    key: str = ""
    errors: tuple[str, ...] = ()
    last: Row = field(default_factory=dict)
    error: Callable[[], Exception | None] = field(default=lambda: None)


@dataclass
class Group:
    """A proposal under way: its repeats' rows as they come."""

    proposal: Proposal
    rows: dict[int, Row] = field(default_factory=dict)
    trained: bool = False
    told: bool = False


class StudySearcher(Searcher):
    """Turns a source's proposals into trials.

    A trial is booked in this order: its row is on disk, then the source is told. So whatever is
    killed when, every finished trial has its row, and the next run tells the source what the
    last one could not.

    Trials whose `config_key` equals that of a finished or running one are answered from its
    row. A trial whose worker died, or lost its device, is tried again, until
    `ledger.MAX_DEATHS`; one that ran out of memory once, with twice the share of a GPU.

    Args:
        source: of the configs.
        plan: of the sweep.
        store: where rows are booked; rows of an interrupted run are read from it.
        watcher: is told what happens.
        stage: of all trials; decides their names.
        retry_seconds: pause before results that could not be written are tried again.

    Attributes:
        booked: trials of the stage that ended for good in earlier runs of the sweep.
        finished: whether the source has nothing left and every trial is booked.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        store: Store,
        watcher: Watcher,
        stage: str = "search",
        retry_seconds: float = 5.0,
    ) -> None:
        super().__init__()
        self.source, self.plan, self.store, self.watcher = source, plan, store, watcher
        self._retry_seconds = retry_seconds
        self._ledger = Ledger(store, plan, stage)
        self._completed = self._ledger.completed()
        self._owner: dict[str, str] = {}
        self._waiting: dict[str, list[Ask]] = {}
        self._live: dict[str, Ask] = {}
        self._queue: deque[Ask] = deque()
        self.booked = self._ledger.count()
        self.finished = False
        for proposal in source.unfinished():
            self._take(proposal)

    # What Tune calls

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        while True:
            if not self._queue:
                proposal = self.source.ask()
                if proposal is None:
                    self.finished = not self._live
                    return Searcher.FINISHED if self.finished else None
                self._take(proposal)
                continue
            ask = self._queue.popleft()
            if self._answer(ask):
                continue
            self._live[trial_id] = ask
            self._owner[ask.key] = ask.trial_id
            job = self.plan.job(ask.config, ask.trial_id, ask.attempt, gpus=ask.gpus)
            return job.to_dict()

    def on_trial_start(self, trial_id: str, error: Callable[[], Exception | None]) -> None:
        """A trial that was suggested has got a worker: told by `Starts`.

        Args:
            trial_id: Tune's.
            error: gives what ended the worker, if it was an exception.
        """
        ask = self._live[trial_id]
        ask.error = error
        self.watcher.started(ask.trial_id, ask.config)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        ask = self._live[trial_id]
        self._note(ask, result)
        self.store.maybe_flush()

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        ask = self._live.pop(trial_id, None)
        if ask is None:
            return
        if result is not None and not error:
            self._note(ask, result)
            row = dict(ask.last)
        else:
            raised = ask.error()
            reason = DEATH if raised is None else _told(raised)
            row = {**self._blank(ask), **ask.last, "status": "failed"}
            row["error"] = reason.partition("\n")[0]
        again = self._again(ask, row)
        self._book(ask, row, final=again is None)
        if again is not None:
            self._queue.appendleft(again)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher at the start, for a restore that we do otherwise.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal and the store are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return False

    # Booking

    def _take(self, proposal: Proposal) -> None:
        """Queues the repeats of a proposal that are not booked yet."""
        group = Group(proposal)
        repeats = len(proposal.configs)
        for repeat, config in enumerate(proposal.configs):
            number = proposal.number * repeats + repeat
            name = self._ledger.name(number, config)
            booked = self._ledger.rows.get(name)
            if booked is not None and self._ledger.is_over(booked):
                group.rows[repeat], group.trained = booked, True
                continue
            errors = tuple(self._ledger.errors[name])
            share = self._ledger.share(errors)
            assert share is not None
            attempt = self._ledger.attempts[name] + 1
            ask = Ask(group, repeat, config, name, attempt, share, errors=errors)
            try:
                ask.key = self.plan.key(config)
            except UserError as error:
                row = {**self._blank(ask), "status": "infeasible", "error": str(error)}
                self._book(ask, row)
            else:
                self._queue.append(ask)
        self._tell_if_whole(group)

    def _answer(self, ask: Ask) -> bool:
        """Answers a trial from an equal one's row, now or when that one ends."""
        if ask.key in self._completed:
            twin = self._completed[ask.key]
            self.watcher.answered(ask.trial_id, str(twin["trial_id"]))
            ask.group.rows[ask.repeat] = twin
            self._tell_if_whole(ask.group)
            return True
        if self._owner.get(ask.key, ask.trial_id) != ask.trial_id:
            self._waiting.setdefault(ask.key, []).append(ask)
            return True
        return False

    def _note(self, ask: Ask, result: Mapping[str, Any]) -> None:
        columns = SCHEMAS["epochs"].names
        keys = {"trial_id": ask.trial_id, "attempt": ask.attempt}
        rows = [{key: row[key] for key in columns if key in row} | keys for row in result["epochs"]]
        self.store.add_epochs(rows)
        ask.last = result["trial"][0]
        for note in result.get("notes", ()):
            self.watcher.noted(ask.trial_id, note)
        for row in rows:
            self.watcher.epoch(row, ask.config.epochs)

    def _again(self, ask: Ask, row: Row) -> Ask | None:
        """The next attempt at a trial; None where it has ended for good."""
        if row["status"] != "failed":
            return None
        errors = (*ask.errors, str(row["error"]))
        share = self._ledger.share(errors)
        if share is None:
            return None
        return Ask(
            ask.group,
            ask.repeat,
            ask.config,
            ask.trial_id,
            ask.attempt + 1,
            share,
            ask.key,
            errors,
        )

    def _book(self, ask: Ask, row: Row, *, final: bool = True) -> None:
        """Writes an attempt's row; tells the source when the whole proposal is done."""
        self.store.add_trial(row)
        while self.store.pending:
            # The sweep pauses: no result may be told that is not on disk. The store has said why.
            time.sleep(self._retry_seconds)
            self.store.flush()
        if not final:
            self.watcher.retried(row)
            return
        with contextlib.suppress(OSError):
            # Kept until now: whoever dies before the row is on disk has not trained for nothing.
            trial_folder(self.plan.results, self.plan.sweep, ask.trial_id).delete(PROGRESS)
        self.watcher.ended(row)
        ask.group.rows[ask.repeat], ask.group.trained = row, True
        if row["status"] == "completed":
            self._completed[ask.key] = row
        # Equal trials that waited: answered if this one completed, else they take their turn.
        self._owner.pop(ask.key, None)
        self._queue.extendleft(self._waiting.pop(ask.key, []))
        self._tell_if_whole(ask.group)

    def _tell_if_whole(self, group: Group) -> None:
        repeats = len(group.proposal.configs)
        if len(group.rows) == repeats and not group.told:
            group.told = True
            rows = [group.rows[repeat] for repeat in range(repeats)]
            self.source.tell(group.proposal.number, rows, answered=not group.trained)

    def _blank(self, ask: Ask) -> dict[str, Any]:
        """A row of what is known without training."""
        return {
            "trial_id": ask.trial_id,
            "attempt": ask.attempt,
            "config_key": ask.key or None,
            "stage": ask.config.stage,
            "method": ask.config.method,
            "dataset": ask.config.dataset,
            "student_requested": ask.config.student,
            "compression_kind": ask.config.compression,
            "compression_requested": ask.config.amount,
            "seed": ask.config.seed,
            "view_seed": ask.config.view_seed,
            "config": ask.config.to_json(),
        }


class Starts(Callback):
    """Tells a searcher when trials start; Tune itself tells searchers only when they end."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.on_trial_start(trial.trial_id, functools.partial(_raised, trial))


def _told(raised: Exception) -> str:
    """What a row says of an exception that ended a worker: as of one that ended a trial."""
    meant = meaning(raised)
    return f"{type(meant).__name__}: {meant}"


def _raised(trial: Any) -> Exception | None:
    """The exception in a trial's worker; None where the worker or its node died."""
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return None
    return error.cause if isinstance(error, RayTaskError) else None
