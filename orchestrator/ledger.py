"""Ledger: what earlier runs of a sweep have booked, and what follows from it."""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plan import Plan
from orchestrator.store import Store
from trainables.config import TrialConfig
from trainables.errors import DeviceError, OutOfMemoryError, UserError

MAX_DEATHS = 3
"""A trial whose worker died this often has failed: it may be what kills them."""
OUT_OF_MEMORY = OutOfMemoryError.__name__
DEVICE = DeviceError.__name__
DEATH = "the worker process died; see Ray's logs of its node"

TRIAL_IDS = {"search": "{sweep}-{number:05d}", "confirm": "{sweep}-confirm-{digest}"}
"""How trials are called, by stage; the sweep is the name under which it began. In a search, a
number is a config's for good. Confirmations begin anew with other seeds and other configs: there,
the config gives the name."""

Row = Mapping[str, Any]


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
        self.rows: dict[str, Row] = {}
        self.attempts: defaultdict[str, int] = defaultdict(int)
        self.errors: defaultdict[str, list[str]] = defaultdict(list)
        for row in store.read("epochs").to_pylist():
            self._begun(row)
        for row in store.read("trials").to_pylist():
            self._begun(row)
            self._ended(row)

    def _begun(self, row: Row) -> None:
        trial_id = row["trial_id"]
        self.attempts[trial_id] = max(self.attempts[trial_id], row["attempt"])

    def _ended(self, row: Row) -> None:
        trial_id = row["trial_id"]
        if trial_id not in self.rows or row["attempt"] >= self.rows[trial_id]["attempt"]:
            self.rows[trial_id] = row
        if row["status"] == "failed":
            self.errors[trial_id].append(str(row["error"]))

    def completed(self) -> dict[str, Row]:
        """Rows of completed trials of all stages, by their configs' keys."""
        done = (row for row in self.rows.values() if row["status"] == "completed")
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
        deaths = sum(error == DEATH or error.startswith(DEVICE) for error in errors)
        full = sum(error.startswith(OUT_OF_MEMORY) for error in errors)
        if deaths + full < len(errors) or deaths >= MAX_DEATHS or full > 1:
            return None
        usual = self._plan.gpus
        share = min(1.0, 2 * usual) if full else usual
        return None if full and share <= usual else share

    def name(self, number: int, config: TrialConfig) -> str:
        """The id of trial ``number``: one that no other config has.

        A number can come again with another config where the end of a journal was lost with the
        machine that wrote it.
        """
        digest = hashlib.sha256(config.to_json().encode()).hexdigest()[:8]
        form = TRIAL_IDS[self._stage]
        plain = form.format(sweep=self._plan.origin, number=number, digest=digest)
        names = itertools.chain([plain], (f"{plain}-{again}" for again in itertools.count(2)))
        return next(
            name for name in names if name not in self.rows or _is_of(self.rows[name], config)
        )


def _is_of(row: Row, config: TrialConfig) -> bool:
    """Whether a row, perhaps of an older version, is of this config."""
    try:
        return TrialConfig.from_mapping(json.loads(row["config"])) == config
    except UserError:
        return False
