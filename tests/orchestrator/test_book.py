"""The book by itself: random histories of asks, reports, ends, deaths, full disks and kills.

Of every history: no trial is lost, none is trained twice, none begins again under another config.
"""

import functools
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.results.store import SCHEMAS
from orchestrator.sweeps.book import Book
from orchestrator.sweeps.ledger import known
from orchestrator.sweeps.proposal import ANSWERED, TRAINED, Proposal
from orchestrator.sweeps.source import OptunaSource
from search_spaces.load import parse_study
from trainables.config import TrialConfig
from trainables.errors import UserError

COLUMNS = {
    "proposals": SCHEMAS["proposals"].names,
    "epochs": ["trial_id", "attempt", "epoch"],
    "trials": [
        *("trial_id", "attempt", "status", "error", "stage"),
        *("config_key", "config", "val_acc", "ended_at"),
    ],
}
"""Of the tables: what is read again."""

TYPES = {
    table: pa.schema([SCHEMAS[table].field(name) for name in names])
    for table, names in COLUMNS.items()
}
KEYS = {
    "proposals": ["number"],
    "epochs": ["trial_id", "attempt", "epoch"],
    "trials": ["trial_id", "attempt"],
}
LRS = [0.01, 0.02, 0.03, 0.04, 0.05]
ENDINGS = [
    {"status": "completed"},
    {"status": "completed"},
    {"status": "completed"},
    {"status": "completed", "val_acc": float("nan")},
    {"status": "stopped"},
    {"status": "failed", "error": "Diverged: the loss became nan"},
    {"status": "failed", "error": "OutOfMemoryError: the memory of the GPU is full"},
    {"status": "failed", "error": "DeviceError: CUDA error"},
]


class Killed(BaseException):
    """As sudden as SIGKILL: nothing in the driver handles it."""


class Memory:
    """What `Store` promises, in memory: a row is kept when the flush says so, or it may be lost.

    One is a driver's; its disk outlives it.

    Args:
        disk: rows by table and key.
    """

    folder = "memory"

    def __init__(self, disk):
        self.disk = disk
        self.buffer = {table: [] for table in COLUMNS}
        self.tables = {}
        self.failures = 0
        self.fuse = 0
        """Counts the writes to the one at which the driver is killed; 0: never."""
        self.late = False

    def add_proposal(self, row):
        self.buffer["proposals"].append(row)

    def add_epochs(self, rows):
        self.buffer["epochs"] += rows

    def add_trial(self, row):
        self.buffer["trials"].append(row)
        return self.flush()

    def maybe_flush(self):
        return True

    def flush(self):
        for table, rows in self.buffer.items():
            if not rows:
                continue
            if self.failures:
                self.failures -= 1
                return False
            self.fuse -= 1
            if self.fuse == 0 and not self.late:
                raise Killed
            for row in rows:
                key = tuple(row[name] for name in KEYS[table])
                assert table != "trials" or key not in self.disk[table], f"{key} ended twice"
                self.disk[table][key] = row
            rows.clear()
            self.tables.pop(table, None)
            if self.fuse == 0:
                raise Killed
        return True

    def read(self, table):
        if table not in self.tables:
            kept = self.disk[table].values()
            columns = [[row.get(name) for row in kept] for name in COLUMNS[table]]
            self.tables[table] = pa.table(columns, schema=TYPES[table])
        return self.tables[table]


@functools.cache
def text(lr, batch_size, repeat):
    return config(lr, batch_size, repeat).to_json()


@functools.cache
def config(lr, batch_size, repeat):
    return TrialConfig.from_mapping(
        {"dataset": "digits", "student": "wrn_10_1", "method": "student", "epochs": 2}
        | {"lr": lr, "batch_size": batch_size, "seed": repeat, "view_seed": repeat}
    )


class Drawn:
    """A quick source of random configs, other ones after every start."""

    PATIENCE = 4
    replaces = True

    def __init__(self, budget, repeats, chance, before):
        self.repeats, self.chance, self.budget = repeats, chance, budget
        self.open = [proposal.row for proposal in before if proposal.told is None]
        answers = [proposal.answered for proposal in before if proposal.told is not None]
        self._trained = len(before) - sum(answers)
        self._useless = [*reversed(answers), False].index(False)
        self.number = len(before)

    @property
    def total(self):
        return self.budget * self.repeats

    def _has_next(self):
        return self._trained < self.budget and self._useless < self.PATIENCE

    def unfinished(self):
        return [self.proposal(row) for row in self.open]

    def ask(self):
        if not self._has_next():
            return None
        drawn = {"lr": self.chance.choice(LRS), "batch_size": self.chance.choice([8, 9, 16])}
        row = {"number": self.number, "params": json.dumps(drawn), "attrs": "{}"}
        self.number += 1
        self._trained += 1
        return self.proposal(row)

    def proposal(self, row):
        drawn = json.loads(row["params"])
        return Proposal(
            row["number"], tuple(config(**drawn, repeat=k) for k in range(self.repeats)), row
        )

    def tell(self, number, rows, *, answered):
        self._useless = self._useless + 1 if answered else 0
        self._trained -= answered

    def keep(self):
        pass


def study(repeats, trials, sampler):
    return parse_study(
        {
            "name": "s",
            "dataset": "digits",
            "fixed": {"student": "wrn_10_1", "epochs": 2},
            "dimensions": {"lr": LRS, "batch_size": [8, 9, 16]},
            "objectives": {"val_acc": "max"},
            "sampler": sampler,
            "trials": trials,
            "repeats": repeats,
        }
    )


class NoJournal:
    """Optuna's log in memory, without a file."""

    def __init__(self):
        self.logs = []

    def read_logs(self, log_number_from):
        return map(json.loads, self.logs[log_number_from:])

    def append_logs(self, logs):
        self.logs += map(json.dumps, logs)


def key(config):
    """A batch of 9 is a batch of 8 by another name; one of 16 at the highest rate is impossible."""
    if config.batch_size == 16 and config.lr == LRS[-1]:
        raise UserError("no such student")
    return f"{config.lr} {8 * (config.batch_size // 8)} {config.seed}"


@dataclass
class History:
    """A sweep and all its drivers, and what must hold of them at any time.

    Attributes:
        names: the config of every trial that was ever handed out.
        told: what a source was told of every proposal, and whether by other trials.
        live: attempts under way, by trial.
    """

    optuna: bool
    repeats: int
    trials: int
    gpus: float
    seed: int
    disk: dict = field(default_factory=lambda: {table: {} for table in COLUMNS})
    names: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    live: dict = field(default_factory=dict)
    events: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.chance = random.Random(self.seed)
        self.plan = SimpleNamespace(
            study=SimpleNamespace(repeats=self.repeats),
            sweep="s",
            origin="s",
            gpus=self.gpus,
            key=key,
        )
        self.sampler = self.chance.choice(["random", "tpe", "nsga2", "grid"])
        self.start()

    def start(self):
        """A driver, where the one before is no more."""
        self.live.clear()
        self.store = Memory(self.disk)
        before = known(self.store, self.plan)
        if self.optuna:
            spec = study(self.repeats, self.trials, self.sampler)
            source = OptunaSource(spec, NoJournal(), "s", before)
            source.PATIENCE = Drawn.PATIENCE
        else:
            source = Drawn(self.trials, self.repeats, self.chance, before)
        for proposal in before:
            if proposal.told is not None:
                told = [row["trial_id"] for row in proposal.told], proposal.answered
                assert self.told[proposal.row["number"]] == told
        tell = source.tell

        def watched(number, rows, *, answered):
            kept = self.disk["trials"].values()
            assert all(any(row["trial_id"] == k["trial_id"] for k in kept) for row in rows)
            told = [row["trial_id"] for row in rows], answered
            assert self.told.setdefault(number, told) == told, "told otherwise"
            tell(number, rows, answered=answered)

        source.tell = watched
        self.source = source
        self.book = Book(source, self.plan, self.store, self, "search", lambda: None)

    # What the book says, to nobody

    def ignored(self, *anything):
        pass

    started = epoch = ended = retried = noted = answered = ignored

    # What happens

    def over(self):
        """Trials that have ended for good, as their rows say."""
        last = {}
        for row in self.disk["trials"].values():
            last.setdefault(row["trial_id"], []).append(row)
        return {name for name, rows in last.items() if self.is_over(rows)}

    def is_over(self, rows):
        errors = [row["error"] for row in rows if row["status"] == "failed"]
        if rows[-1]["status"] != "failed":
            return True
        full = sum(error.startswith("OutOfMemory") for error in errors)
        diverged = any(error.startswith("Diverged") for error in errors)
        return diverged or len(errors) - full >= 3 or full >= (2 if self.gpus < 1 else 1)

    def ask(self):
        ask = self.book.next()
        if ask is None:
            return False
        name = ask.trial_id
        assert name not in self.live, "trained twice at once"
        assert name not in self.over(), "trained again after its end"
        said = text(ask.config.lr, ask.config.batch_size, ask.config.seed)
        assert self.names.setdefault(name, said) == said, "begun again under another config"
        assert (name, ask.attempt) not in self.disk["trials"]
        done = {r["config_key"] for r in self.disk["trials"].values() if r["status"] == "completed"}
        assert ask.key not in done, "an equal trial has completed"
        assert ask.key not in {other.key for other in self.live.values()}
        number = int(name.rpartition("-")[2]) // self.repeats
        drawn = json.loads(self.disk["proposals"][(number,)]["params"])
        assert (drawn["lr"], drawn["batch_size"]) == (ask.config.lr, ask.config.batch_size)
        full = any(error.startswith("OutOfMemory") for error in ask.errors)
        assert ask.gpus == (min(1.0, 2 * self.gpus) if full else self.gpus)
        self.live[name] = ask
        self.book.started(ask)
        return True

    def result(self, ask, ending):
        row = {"trial_id": ask.trial_id, "attempt": ask.attempt, "error": None, "val_acc": 0.5}
        row |= {"config_key": ask.key, "stage": "search", "config": self.names[ask.trial_id]}
        row |= {"ended_at": datetime(2026, 1, 1, tzinfo=UTC)}
        epoch = {"trial_id": ask.trial_id, "attempt": ask.attempt, "epoch": 1}
        return {"epochs": [epoch], "trial": [row | ending]}

    def move(self, byte):
        """Does what a byte says."""
        kind, which = byte % 8, byte // 8
        if kind == 6 and which % 4 == 0:
            raise Killed
        if kind in (0, 1, 6) or (kind < 6 and not self.live):
            self.ask()
        elif kind == 2:
            self.book.report(self.one(which), self.result(self.one(which), {"status": "stopped"}))
        elif kind < 5:
            ask = self.live.pop(self.one(which).trial_id)
            self.book.ended(ask, self.result(ask, ENDINGS[(which // 2) % len(ENDINGS)]))
        elif kind == 5:
            self.book.died(self.live.pop(self.one(which).trial_id))
        elif which % 2:
            self.store.failures = 1 + which // 2 % 3
        else:
            self.store.fuse, self.store.late = 1 + which // 4, bool(which // 2 % 2)

    def one(self, which):
        return list(self.live.values())[which % len(self.live)]

    def survive(self, step):
        """Takes a step; a driver that is killed in it is followed by another one."""
        try:
            return step()
        except Killed:
            self.events["kills"] += 1
            self.start()
            return True

    def finish(self):
        """To the end, without further faults."""
        self.store.fuse = self.store.failures = 0
        for _ in range(10_000):
            if not self.ask():
                if not self.live:
                    break
                ask = self.live.pop(next(iter(self.live)))
                self.book.ended(ask, self.result(ask, {"status": "completed"}))
        assert self.book.finished
        assert self.store.flush()

    def check(self):
        """Every trial of every proposal has ended, or an equal one has completed."""
        over = self.over()
        rows = self.disk["trials"].values()
        done = {row["config_key"]: row for row in rows if row["status"] == "completed"}
        proposals = self.disk["proposals"]
        assert sorted(proposals) == [(number,) for number in range(len(proposals))]
        assert self.told.keys() == {number for (number,) in proposals}
        states = Counter()
        for (number,), row in proposals.items():
            names = [f"s-{number * self.repeats + k:05d}" for k in range(self.repeats)]
            ids = json.loads(row["trial_ids"])
            states[row["state"]] += 1
            assert (ids, row["state"] == ANSWERED) == self.told[number]
            drawn = json.loads(row["params"])
            for repeat, (name, told) in enumerate(zip(names, ids, strict=True)):
                if name in over:
                    assert told == name
                else:
                    assert told == done[key(config(**drawn, repeat=repeat))]["trial_id"]
        assert self.names.keys() <= over, "a trial that began was lost"
        ended_well = Counter(row["config_key"] for row in rows if row["status"] == "completed")
        assert set(ended_well.values()) <= {1}, "equal trials were trained twice"
        assert states[TRAINED] == self.source._trained <= self.trials
        assert not self.source._has_next()
        if self.source._useless < Drawn.PATIENCE:
            # And a further driver has nothing to do.
            self.start()
            assert self.book.next() is None
            assert self.book.finished


def play(moves, *, optuna):
    """A whole history, as the bytes have it."""
    first = moves[0]
    history = History(
        optuna, 1 + first % 3, 1 + first // 3 % 6, (0.25, 1.0, 0.7)[first // 18 % 3], moves[1]
    )
    for byte in moves[2:]:
        history.survive(functools.partial(history.move, byte))
    history.survive(history.finish)
    history.finish()
    history.check()
    return history


HISTORIES = st.binary(min_size=2, max_size=60)
QUICK = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(QUICK, max_examples=1000)
@given(HISTORIES)
def test_nothing_is_lost_doubled_or_changed(moves):
    play(moves, optuna=False)


@settings(QUICK, max_examples=100)
@given(HISTORIES)
def test_nothing_is_lost_doubled_or_changed_under_optuna(moves):
    play(moves, optuna=True)


@pytest.mark.soak
@pytest.mark.parametrize("optuna", [False, True])
def test_nothing_of_a_hundred_thousand_histories_is_lost(optuna):
    """``KDSWEEP_HISTORIES`` of them; a tenth as many under Optuna."""
    histories = int(os.environ.get("KDSWEEP_HISTORIES", "100000")) // (10 if optuna else 1)
    total = Counter()

    @settings(QUICK, max_examples=histories)
    @given(HISTORIES)
    def run(moves):
        history = play(moves, optuna=optuna)
        total.update(history.events)
        total["histories"] += 1
        total["trials"] += len(history.over())
        total["attempts"] += len(history.disk["trials"])
        if total["histories"] % 10_000 == 0:
            print(f"\n{dict(total)}", flush=True)

    run()
    print(f"\n{dict(total)}")
