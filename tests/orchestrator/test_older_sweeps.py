"""Sweeps of versions that kept no proposals: finished ones are, others are not gone on with."""

from pathlib import Path

import pytest
import yaml

from orchestrator.results.store import Store
from orchestrator.sweeps import notes, sweep
from orchestrator.sweeps.deaths import DEATH
from orchestrator.sweeps.journal import NAME
from orchestrator.sweeps.plan import Plan
from search_spaces.load import parse_study
from trainables.errors import UserError

GRID = {
    "name": "s",
    "dataset": "digits",
    "fixed": {"epochs": 1},
    # The second student is the first.
    "dimensions": {"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1, 0.05]},
    "sampler": "grid",
    "repeats": 2,
}
RANDOM = GRID | {
    "fixed": {"epochs": 1, "student": "wrn_10_1"},
    "dimensions": {"lr": {"low": 0.01, "high": 0.5}},
    "sampler": "random",
    "trials": 3,
}
DONE: dict = {}
FAILED = {"status": "failed", "error": "Diverged: the loss became nan"}
DEAD = {"status": "failed", "error": DEATH}


@pytest.fixture
def options(tmp_path) -> sweep.Options:
    return sweep.Options(results=str(tmp_path / "results"))


def left(options: sweep.Options, study: dict, rows: dict[int, dict]) -> Path:
    """An older version's sweep with these rows, by the number of their trial."""
    spec = parse_study(study)
    plan = Plan(spec, "s", options.results)
    notes.write_study(plan)
    store = Store(options.results, "s")
    content = yaml.safe_load(store.read_study())
    del content["kdsweep"][notes.VERSION]
    store.save_study(yaml.safe_dump(content, sort_keys=False))
    points = spec.space.grid() if study is GRID else [{"lr": 0.01 * (n + 1)} for n in range(3)]
    configs = [spec.config(point, repeat=k) for point in points for k in range(spec.repeats)]
    for number, columns in rows.items():
        config = configs[number]
        row = {"trial_id": f"s-{number:05d}", "attempt": 1, "stage": "search"}
        row |= {"status": "completed", "config": config.to_json(), "config_key": plan.key(config)}
        assert store.add_trial(row | columns)
    store.folder.write(NAME, b"of Optuna")
    return Path(store.folder.path)


def files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize(
    ("study", "rows"),
    [
        (GRID, dict.fromkeys(range(4), DONE)),
        (GRID, {0: {}, 1: FAILED, 2: {}, 3: {}, 5: {}}),
        (RANDOM, dict.fromkeys(range(6), DONE)),
        (RANDOM, dict.fromkeys(range(6), FAILED)),
    ],
)
def test_what_was_finished_is_finished(options, study, rows):
    folder = left(options, study, rows)
    before = files(folder)
    assert sweep.resume("s", options) == sweep.Outcome("s", True, 0, 0)
    assert files(folder) == before


@pytest.mark.parametrize(
    ("study", "rows"),
    [
        (GRID, {}),
        (GRID, dict.fromkeys(range(3), DONE)),
        (GRID, {0: {}, 1: {}, 2: {}, 3: DEAD}),
        (GRID, {0: {}, 1: FAILED, 2: {}, 3: {}}),
        (RANDOM, dict.fromkeys(range(5), DONE)),
        (RANDOM, {}),
    ],
)
def test_what_was_interrupted_is_refused_in_one_line(options, study, rows):
    folder = left(options, study, rows)
    before = files(folder)
    with pytest.raises(UserError) as caught:
        sweep.resume("s", options)
    text = str(caught.value).replace(options.results, "R")
    assert text == (
        "sweep 's' was begun by an older version, which alone can go on with it; "
        "or begin a new one by `kdsweep run R/s/study.yaml --name NAME`"
    )
    assert files(folder) == before
