"""Ledger: what the store of a sweep has of its earlier runs, and what follows from it."""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pyarrow as pa

from orchestrator.results.store import Store
from orchestrator.sweeps.deaths import DEATH, NO_MEMORY, NO_START
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.proposal import Known, Row, refused
from trainables.config import TrialConfig
from trainables.errors import DeviceError, OutOfMemoryError, UserError

MAX_DEATHS = 3
"""A trial whose worker died this often has failed: it may be what kills them."""
OUT_OF_MEMORY = OutOfMemoryError.__name__
DEVICE = DeviceError.__name__

TRIAL_IDS = {"search": "{sweep}-{number:05d}", "confirm": "{sweep}-confirm-{digest}"}
"""How trials are called, by stage; the sweep is the name under which it began. In a search, a
number is a config's for good: it is stored before the trial starts. Confirmations begin anew with
other seeds and other configs: there, the config gives the name."""


class Ledger:
    """The trials of a sweep as its store had them when this run began.

    Args:
        store: of the sweep.
        plan: of the sweep.
        stage: of this run's trials; decides their names.

    Attributes:
        rows: the last row of each trial, by its id.
        attempts: how often each trial was begun.
        errors: of each trial's failed attempts.
    """

    def __init__(self, store: Store, plan: Plan, stage: str) -> None:
        self._plan, self._stage = plan, stage
        trials, epochs = store.read("trials"), store.read("epochs")
        rows = trials.to_pylist()
        self.rows = _last(rows)
        self.errors: defaultdict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row["status"] == "failed":
                self.errors[row["trial_id"]].append(str(row["error"]))
        begun = pa.concat_tables([t.select(["trial_id", "attempt"]) for t in (trials, epochs)])
        begun = begun.group_by("trial_id", use_threads=False).aggregate([("attempt", "max")])
        columns = begun["trial_id"].to_pylist(), begun["attempt_max"].to_pylist()
        self.attempts = defaultdict(int, zip(*columns, strict=True))

    def completed(self) -> dict[str, Row]:
        """Rows of trials of all stages that completed, or were too costly to be trained, by their
        configs' keys."""
        rows = self.rows.values()
        done = (row for row in rows if row["status"] == "completed" or refused(row))
        return {row["config_key"]: row for row in done}

    def count(self) -> int:
        """How many trials of the stage have ended for good."""
        return sum(row["stage"] == self._stage and self.is_over(row) for row in self.rows.values())

    def is_over(self, row: Row) -> bool:
        """Whether a trial with this last row needs no further attempt."""
        return row["status"] != "failed" or self.share(self.errors[row["trial_id"]]) is None

    def share(self, errors: Sequence[str]) -> float | None:
        """The GPU share of the attempt after those that failed so; None where there is none."""
        # A lost device is a death, too: the worker's process ended with it.
        deaths = sum(error.startswith((DEATH, NO_MEMORY, NO_START, DEVICE)) for error in errors)
        full = sum(error.startswith(OUT_OF_MEMORY) for error in errors)
        if deaths + full < len(errors) or deaths >= MAX_DEATHS or full > 1:
            return None
        usual = self._plan.gpus
        share = min(1.0, 2 * usual) if full else usual
        return None if full and share <= usual else share

    def name(self, number: int, config: TrialConfig) -> str:
        """The id of trial ``number``: one that no other config has."""
        form, sweep = TRIAL_IDS[self._stage], self._plan.origin
        if self._stage == "search":
            return form.format(sweep=sweep, number=number)
        digest = hashlib.sha256(config.to_json().encode()).hexdigest()[:8]
        plain = form.format(sweep=sweep, digest=digest)
        # Digests are short: two configs may share one.
        names = itertools.chain([plain], (f"{plain}-{again}" for again in itertools.count(2)))
        return next(
            name for name in names if name not in self.rows or _is_of(self.rows[name], config)
        )


def known(store: Store, plan: Plan) -> list[Known]:
    """What a search has proposed so far, by number.

    Raises:
        UserError: something of it is missing.
    """
    proposals = store.read("proposals").sort_by("number").to_pylist()
    trials = store.read("trials").to_pylist()
    form, repeats = TRIAL_IDS["search"], plan.study.repeats
    names = {form.format(sweep=plan.origin, number=n) for n in range(len(proposals) * repeats)}
    strangers = {row["trial_id"] for row in trials if row["stage"] == "search"} - names
    numbers = [row["number"] for row in proposals]
    if strangers or numbers != list(range(len(numbers))):
        raise UserError(
            f"{store.folder}/proposals lacks some of what this sweep has drawn; put its files "
            f"back, or begin a new sweep by `kdsweep run {store.folder}/study.yaml --name NAME`"
        )
    rows = _last(trials)
    found = []
    for row in proposals:
        ids = json.loads(row["trial_ids"] or "[]")
        told = [rows[trial_id] for trial_id in ids if trial_id in rows]
        found.append(Known(row, told if len(told) == repeats else None))
    return found


def is_finished(store: Store, plan: Plan) -> bool:
    """Whether a search of which an older version kept no proposals has come to its end."""
    ledger, study = Ledger(store, plan, "search"), plan.study
    points = study.first_points()
    if ledger.count() >= (study.trials or len(points)) * study.repeats:
        return True
    if study.asks_sampler:
        return False
    configs = [study.config(point, repeat=k) for point in points for k in range(study.repeats)]
    names = [ledger.name(number, config) for number, config in enumerate(configs)]
    done = ledger.completed()
    return all(
        (name in ledger.rows and ledger.is_over(ledger.rows[name])) or plan.key(config) in done
        for name, config in zip(names, configs, strict=True)
    )


def _last(rows: Iterable[Row]) -> dict[str, Row]:
    """The row of each trial's last attempt, by its id."""
    last: dict[str, Row] = {}
    for row in rows:
        trial_id = row["trial_id"]
        if trial_id not in last or row["attempt"] >= last[trial_id]["attempt"]:
            last[trial_id] = row
    return last


def _is_of(row: Row, config: TrialConfig) -> bool:
    """Whether a row, perhaps of an older version, is of this config."""
    try:
        return TrialConfig.from_mapping(json.loads(row["config"])) == config
    except UserError:
        return False
