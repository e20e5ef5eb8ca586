"""Book: what becomes of a sweep's trials: who is trained, answered, tried again, and told.

A state machine that knows nothing of Ray, clocks or disks but the store.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from orchestrator.results.store import Store
from orchestrator.sweeps.deaths import DEATH
from orchestrator.sweeps.ledger import Ledger
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.proposal import ANSWERED, TRAINED, Proposal, Row, Source, refused
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.experiment import asked


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


@dataclass
class Group:
    """A proposal under way: its repeats' rows as they come."""

    proposal: Proposal
    rows: dict[int, Row] = field(default_factory=dict)
    trained: bool = False
    told: bool = False

    @property
    def whole(self) -> bool:
        """Whether every repeat has its row."""
        return len(self.rows) == len(self.proposal.configs)


class Twins:
    """Trials of equal configs: the first one runs, the others wait for its row, or have it.

    Attributes:
        rows: those that answer all equal trials, by `config_key`.
    """

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = dict(rows)
        self._runs: dict[str, str] = {}
        self._waiting: dict[str, list[Ask]] = {}

    def begin(self, ask: Ask) -> bool:
        """Whether an attempt may begin; one that may not waits for the trial that runs."""
        if self._runs.setdefault(ask.key, ask.trial_id) == ask.trial_id:
            return True
        self._waiting.setdefault(ask.key, []).append(ask)
        return False

    def end(self, key: str, row: Row) -> list[Ask]:
        """A trial has ended for good; those that waited for it, in order.

        They are answered if it completed, else they take their turn, as they would after an
        interruption: none that has begun is left for another one.
        """
        if row["status"] == "completed" or refused(row):
            self.rows[key] = row
        self._runs.pop(key, None)
        return self._waiting.pop(key, [])


class Book:
    """The trials of a source, from their proposal to their last row.

    It is kept in this order: a proposal is in the store, then its trials start; a trial's row is
    in the store, then the source is told. So whatever is killed when, every trial that began has
    its config, every one that ended its row, and the next run tells what the last one could not.

    Trials whose `config_key` equals that of a finished or running one, or of one that was too
    costly to be trained, are answered from its row. A trial whose worker died, or lost its device,
    is tried again, until `ledger.MAX_DEATHS`; one that ran out of memory once, with twice the
    share of a GPU.

    Args:
        source: of the configs.
        plan: of the sweep.
        store: of the sweep; what an interrupted run left in it is gone on with.
        watcher: is told what happens.
        stage: of all trials; decides their names.
        pause: passes the time before what could not be written is tried again.

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
        stage: str,
        pause: Callable[[], None],
    ) -> None:
        self.source, self.plan, self.store, self.watcher = source, plan, store, watcher
        self._pause = pause
        self._ledger = Ledger(store, plan, stage)
        self._twins = Twins(self._ledger.completed())
        self._live: set[str] = set()
        self._queue: deque[Ask] = deque()
        self.booked = self._ledger.count()
        self.finished = False
        for proposal in source.unfinished():
            self._take(proposal)

    def next(self) -> Ask | None:
        """The next attempt to begin; None where there is none now, or none any more."""
        while True:
            if self._queue:
                ask = self._queue.popleft()
                if ask.key in self._twins.rows:
                    self._answer(ask, self._twins.rows[ask.key])
                elif self._twins.begin(ask):
                    self._live.add(ask.trial_id)
                    return ask
                continue
            proposal = self.source.ask()
            if proposal is None:
                self.finished = not self._live
                return None
            if proposal.row is not None:
                self.store.add_proposal(proposal.row)
                self._await(self.store.flush())
            self._take(proposal)

    def started(self, ask: Ask) -> None:
        """An attempt has begun."""
        self.watcher.started(ask.trial_id, ask.config)

    def report(self, ask: Ask, result: Mapping[str, Any]) -> None:
        """An attempt goes on.

        Args:
            ask: which.
            result: ``epochs``, rows of those that are new; ``trial``, a list of the row as it is
                now; perhaps ``notes``.
        """
        self._note(ask, result)
        self.store.maybe_flush()

    def ended(self, ask: Ask, result: Mapping[str, Any]) -> bool:
        """An attempt has ended by itself.

        Args:
            ask, result: as for `report`.

        Returns:
            Whether the trial has ended for good.
        """
        self._note(ask, result)
        return self._end(ask, ask.last)

    def died(self, ask: Ask, reason: str = DEATH) -> bool:
        """An attempt was ended.

        Args:
            ask: which.
            reason: its first line becomes the row's ``error``.

        Returns:
            Whether the trial has ended for good.
        """
        error = {"status": "failed", "error": reason.partition("\n")[0]}
        return self._end(ask, {**self._asked(ask), **ask.last, **error})

    def _take(self, proposal: Proposal) -> None:
        """Queues the repeats of a proposal that are not booked yet."""
        group = Group(proposal)
        repeats = len(proposal.configs)
        for repeat, config in enumerate(proposal.configs):
            name = self._ledger.name(proposal.number * repeats + repeat, config)
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
                row = {**self._asked(ask), "status": "infeasible", "error": str(error)}
                self._book(ask, row)
            else:
                self._queue.append(ask)
        self._tell_if_whole(group)

    def _answer(self, ask: Ask, row: Row) -> None:
        """Answers a trial from an equal one's row."""
        self.watcher.answered(ask.trial_id, str(row["trial_id"]))
        ask.group.rows[ask.repeat] = row
        self._tell_if_whole(ask.group)

    def _note(self, ask: Ask, result: Mapping[str, Any]) -> None:
        rows = result["epochs"]
        self.store.add_epochs(rows)
        ask.last = result["trial"][0]
        for note in result.get("notes", ()):
            self.watcher.noted(ask.trial_id, note)
        for row in rows:
            self.watcher.epoch(row, ask.config.epochs)

    def _asked(self, ask: Ask) -> Row:
        """A row of what is known without training."""
        key = ask.key or None
        return asked(ask.config, self.plan.sweep, ask.trial_id, ask.attempt, key).known()

    def _end(self, ask: Ask, row: Row) -> bool:
        """Books the row of an attempt; another one follows, or the trial has ended for good."""
        self._live.remove(ask.trial_id)
        errors = (*ask.errors, str(row.get("error")))
        share = self._ledger.share(errors) if row["status"] == "failed" else None
        if share is None:
            self._book(ask, row)
            return True
        self._await(self.store.add_trial(row))
        self.watcher.retried(row)
        attempt = ask.attempt + 1
        self._queue.appendleft(replace(ask, attempt=attempt, gpus=share, errors=errors, last={}))
        return False

    def _book(self, ask: Ask, row: Row) -> None:
        """Writes a trial's last row; tells the source when the whole proposal is done."""
        self._await(self.store.add_trial(row))
        self.watcher.ended(row)
        ask.group.rows[ask.repeat], ask.group.trained = row, True
        self._queue.extendleft(reversed(self._twins.end(ask.key, row)))
        self._tell_if_whole(ask.group)

    def _tell_if_whole(self, group: Group) -> None:
        if group.told or not group.whole:
            return
        group.told = True
        proposal = group.proposal
        rows = [row for _, row in sorted(group.rows.items())]
        self.source.tell(proposal.number, rows, answered=not group.trained)
        if proposal.row is not None:
            # Needs no haste: what was told follows from the rows again, if this is lost.
            self.store.add_proposal({**proposal.row, **_told(rows, group.trained)})

    def _await(self, written: bool) -> None:
        # The sweep pauses: no trial may start, and no result be told, that is not on disk. The
        # store has said why.
        while not written:
            self._pause()
            written = self.store.flush()


def _told(rows: Sequence[Row], trained: bool) -> dict[str, Any]:
    """What the store keeps of a proposal when its source was told."""
    trials = json.dumps([row["trial_id"] for row in rows])
    return {"trial_ids": trials, "state": TRAINED if trained else ANSWERED}
