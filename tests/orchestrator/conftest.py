"""A sweep as a study would leave it, written and read through the store."""

import functools
import json
import random
from collections.abc import Callable, Iterable, Mapping

import pandas as pd
import pytest
import torch
import yaml

from orchestrator.query import trials
from orchestrator.results.store import Store
from search_spaces.spec import Study
from trainables.compression.measure import count_params
from trainables.config import TrialConfig, config_key
from trainables.models.registry import create_model

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
            for point in study.grid()
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
                "compression_kind": "explicit",
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
