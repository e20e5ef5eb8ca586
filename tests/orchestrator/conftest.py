"""A sweep as a study would leave it, written and read through the store."""

import functools
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from ray.tune.search import Searcher

from orchestrator.query import trials
from orchestrator.results.store import Store
from orchestrator.sweeps.book import Book
from orchestrator.sweeps.journal import Journal
from orchestrator.sweeps.ledger import known
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.searcher import StudySearcher
from orchestrator.sweeps.source import OptunaSource
from search_spaces.load import parse_study
from search_spaces.spec import Study
from trainables.compression.measure import count_params
from trainables.config import TrialConfig
from trainables.data.sources import load_dataset
from trainables.experiment import config_key
from trainables.models.registry import create_model
from trainables.teachers.importing import import_teacher

Row = Mapping[str, object]


def _trial_row(
    number: int,
    method: str = "kd",
    factor: float = 4,
    *,
    seed: int = 0,
    stage: str = "search",
    settings: Mapping[str, object] | None = None,
    **columns: object,
) -> dict[str, object]:
    """A row of a finished trial; ``settings`` join its config, ``columns`` its row."""
    config = {"method": method, "compression": "factor", "factor": float(factor), "student": "wrn"}
    config |= {"dataset": "cifar100", "teacher": "wrn_40_2", "seed": seed, "view_seed": seed}
    config |= {"stage": stage, "val_fraction": 0.0 if stage == "confirm" else 0.1}
    config |= settings or {}
    row = {
        "trial_id": f"s-{number:05d}",
        "attempt": 1,
        "config_key": f"{number:016x}",
        "stage": stage,
        "status": "completed",
        "method": method,
        "dataset": "cifar100",
        "teacher": "wrn_40_2",
        "teacher_test_acc": 0.7561,
        "student": f"wrn_{factor:g}",
        "student_requested": "wrn",
        "compression_kind": "factor",
        "compression_requested": factor,
        "compression_params": factor * 1.03,
        "compression_macs": factor * 0.8,
        "compression_bytes": factor * 1.01,
        "seed": seed,
        "view_seed": seed,
        "config": json.dumps(config),
    }
    return {**row, **columns}


@pytest.fixture
def recorded(tmp_path) -> Callable[[Iterable[Row]], pd.DataFrame]:
    """Writes trials as a sweep and reads them back."""

    def record(rows: Iterable[Row], sweep: str = "s") -> pd.DataFrame:
        store = Store(tmp_path / "results", sweep)
        for row in rows:
            assert store.add_trial(row)
        return trials(tmp_path / "results")

    return record


def _search_rows(
    methods: Iterable[str], factors: Iterable[float], configs: int = 4, seeds: int = 3
) -> list[dict[str, object]]:
    """A plausible search: accuracy falls with compression, spreads over configs and seeds."""
    draw = random.Random(0)
    rows: list[dict[str, object]] = []
    for rank, method in enumerate(methods):
        for factor in factors:
            for _ in range(1 if method == "student" else configs):
                temperature = draw.uniform(1, 12)
                level = 0.74 - 0.035 * factor**0.6 + 0.004 * rank - 0.0015 * abs(temperature - 4)
                for seed in range(seeds):
                    val = level + draw.gauss(0, 0.003)
                    accuracies = {"val_acc": val, "test_acc": val + draw.gauss(0.002, 0.003)}
                    rows.append(
                        _trial_row(
                            len(rows),
                            method,
                            factor,
                            seed=seed,
                            settings={"kd.temperature": temperature},
                            **accuracies,
                        )
                    )
    return rows


@pytest.fixture
def trial_row() -> Callable[..., dict[str, object]]:
    return _trial_row


@pytest.fixture
def search_rows() -> Callable[..., list[dict[str, object]]]:
    return _search_rows


@functools.cache
def _params(model: str) -> int:
    with torch.device("meta"):
        return count_params(create_model(model, 100, (3, 32, 32)))


@pytest.fixture
def booked(tmp_path) -> Callable[..., str]:
    """Leaves a sweep of a grid as the searcher would: equal trials are trained once."""

    def book(
        study: Study, accuracy: Callable[[TrialConfig], float], sweep: str = "s", **columns: object
    ) -> str:
        store = Store(tmp_path / "results", sweep)
        content = study.model_dump(mode="json", exclude_defaults=True)
        store.save_study(yaml.safe_dump(content, sort_keys=False))
        configs = [
            study.config(point, repeat=repeat)
            for point in study.space.grid()
            for repeat in range(study.repeats)
        ]
        done = set()
        for number, config in enumerate(configs):
            prints = {"data_fingerprint": "data", "teacher_fingerprint": str(config.teacher)}
            key = config_key(config, student=config.student, **prints)
            if key in done:
                continue
            done.add(key)
            ours, theirs = _params(config.student), _params(str(config.teacher))
            row = {
                "trial_id": f"{sweep}-{number:05d}",
                "attempt": 1,
                "config_key": key,
                "status": "completed",
                "student": config.student,
                "student_requested": config.student,
                "compression_kind": config.compression,
                "teacher_test_acc": 0.75 + len(str(config.teacher)) / 1000,
                "params": ours,
                "teacher_params": theirs,
                "compression_params": theirs / ours,
                "test_acc": accuracy(config),
                "config": config.to_json(),
            }
            names = ("stage", "method", "dataset", "teacher", "seed", "view_seed", "epochs")
            row |= {name: getattr(config, name) for name in names}
            assert store.add_trial(row | columns)
        return str(tmp_path / "results")

    return book


_GRID = {"lr": [0.1, 0.05, 0.02], "batch_size": [32, 64]}


def _study(dimensions=_GRID, **changes):
    fixed = {"student": "wrn_10_1", "epochs": 2}
    content = {
        "name": "s",
        "dataset": "digits",
        "fixed": {key: value for key, value in fixed.items() if key not in dimensions},
        "dimensions": dimensions,
        "objectives": {"val_acc": "max"},
        "sampler": "grid",
    }
    return parse_study(content | changes)


class Log:
    """Remembers what a searcher says it does."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, trial_id, config):
        self.events.append(("started", trial_id))

    def epoch(self, row, epochs):
        self.events.append(("epoch", row["trial_id"]))

    def ended(self, row):
        self.events.append(("ended", row["trial_id"]))

    def retried(self, row):
        self.events.append(("retried", row["trial_id"]))

    def noted(self, trial_id, text):
        self.events.append(("noted", f"{trial_id}: {text}"))

    def answered(self, trial_id, by):
        self.events.append(("answered", trial_id))

    def of(self, kind):
        return [trial_id for event, trial_id in self.events if event == kind]


def _score(key):
    return int(hashlib.sha256(key.encode()).hexdigest()[:6], 16) / 16**6


class Driver:
    """A sweep's driver without Ray: the test says when a trial's results come.

    A second one on the same folder is what `kdsweep resume` is to a driver that was killed; it may
    have been renamed meanwhile.
    """

    def __init__(
        self, folder, spec, *, gpus=0.0, source=None, stage="search", name="s", began_as=None
    ) -> None:
        self.store = Store(folder, name)
        self.plan = plan = Plan(spec, name, str(folder), gpus=gpus, began_as=began_as)
        if not self.store.folder.exists("study.yaml"):
            self.store.save_study("# of the test\n")
        if source is None:
            journal = Journal(self.store.folder)
            source = OptunaSource(spec, journal, plan.origin, known(self.store, plan))
        self.source, self.log = source, Log()
        self.book = Book(source, plan, self.store, self.log, stage, lambda: time.sleep(0.05))
        self.searcher = StudySearcher(self.book)
        self.jobs: dict[str, dict] = {}
        self.asked = 0

    def start(self):
        """Asks for a trial as Tune does; returns Tune's id, None, or FINISHED."""
        self.asked += 1
        tune_id = f"tune{self.asked}"
        given = self.searcher.suggest(tune_id)
        if isinstance(given, dict):
            self.jobs[tune_id] = given
            self.searcher.on_trial_start(tune_id)
            return tune_id
        return given

    def epoch(self, tune_id, number=1):
        self.searcher.on_trial_result(tune_id, self.result(tune_id, [number], "stopped"))

    def end(self, tune_id, status="completed", epochs=(1, 2), **columns):
        result = self.result(tune_id, epochs, status, **columns)
        self.searcher.on_trial_complete(tune_id, result)

    def die(self, tune_id):
        self.searcher.on_trial_complete(tune_id, None, error=True)

    def result(self, tune_id, epochs, status, **columns):
        """What `DistillTrainable.step` returns, with a score that follows from the config."""
        job = self.jobs[tune_id]
        config = TrialConfig.from_mapping(job["config"])
        key = self.plan.key(config)
        row = {
            "trial_id": job["trial_id"],
            "attempt": job["attempt"],
            "config_key": key,
            "stage": config.stage,
            "method": config.method,
            "dataset": config.dataset,
            "student": "wrn_10_1",
            "status": status,
            "error": None,
            "epochs": epochs[-1] if epochs else 0,
            "val_acc": _score(key),
            "config": config.to_json(),
        }
        row |= columns
        whose = {"trial_id": job["trial_id"], "attempt": job["attempt"]}
        rows = [{**whose, "epoch": e, "lr": 0.1, "val_acc": 0.5} for e in epochs]
        return {"epoch": row["epochs"], "epochs": rows, "trial": [row], "done": status != "stopped"}

    def run(self, calls=10**6):
        """Runs trials two at a time to the end, or until so many calls have been made."""
        live = []
        for _ in range(calls):
            given = self.start() if len(live) < 2 else None
            if given == Searcher.FINISHED:
                assert self.store.flush()
                return
            if given is not None:
                live.append(given)
            elif live:
                self.end(live.pop(0))

    @property
    def states(self):
        return [trial.state for trial in self.source.optuna.trials]

    def rows(self):
        return self.store.read("trials").to_pylist()


@pytest.fixture
def study() -> Callable[..., Study]:
    """A study that wants six trials of two epochs, or what a test makes of it."""
    return _study


@pytest.fixture
def driver_of() -> type[Driver]:
    return Driver


@pytest.fixture
def imported(tmp_path: Path):
    """Imports drawn weights under a name."""

    def make(seed: int, name: str = "t1", *, replacing: bool = False):
        torch.manual_seed(seed)
        torch.save(create_model("resnet8_x0.5", 10, (1, 8, 8)).state_dict(), tmp_path / "net.pth")
        return import_teacher(
            "resnet8_x0.5",
            str(tmp_path / "net.pth"),
            load_dataset("digits"),
            results=str(tmp_path / "results"),
            name=name,
            normalisation="dataset",
            force=True,
            replacing=replacing,
        )

    return make
