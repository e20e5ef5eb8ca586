"""A sweep as a study would leave it, written and read through the store."""

import json
import random
from collections.abc import Callable, Iterable, Mapping

import pandas as pd
import pytest

from orchestrator.query import trials
from orchestrator.store import Store

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
