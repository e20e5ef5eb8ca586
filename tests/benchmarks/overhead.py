"""What a further trial of a sweep costs beyond its training.

    python tests/benchmarks/overhead.py --trials 20

One sweep of very short trials (one epoch on a few digits), one at a time, through the real
sweep: searcher, book, store, reused actors. Beside it, in the same run on the same machine,
the same trials as a plain Ray Tune function without reuse: each in a fresh process.

Of every further trial three times are taken, from the rows it leaves; the start of Ray and the
first trials, which start actors, are left out:

- beyond training: from the end of the trial before to its own, less its training steps;
- of that, between trials: from the end of the trial before to the start of its own training.
  This is what the sweep costs: the result on its way, the rows on disk, Optuna, Tune, the next
  job on its way, the student built;
- the rest is the trial's own: validation, test, counting MACs, saving the student.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from orchestrator import query
from orchestrator.sweeps import cluster, sweep
from orchestrator.sweeps.plan import Plan
from search_spaces.load import parse_study
from search_spaces.spec import Study
from trainables.version import versions

FIRST = 2
"""Trials that are left out: they wait for their actor to start."""


def study(trials: int) -> Study:
    return parse_study(
        {
            "name": "overhead",
            "dataset": "digits",
            "fixed": {"student": "wrn_10_1", "epochs": 1, "train_fraction": 0.1},
            "dimensions": {"lr": [0.01 + 1e-4 * number for number in range(trials)]},
            "objectives": {"val_acc": "max"},
            "sampler": "grid",
        }
    )


def of_sweep(trials: int, results: str) -> list[dict[str, Any]]:
    """Rows of the trials as `kdsweep run` trains them, by their end."""
    sweep.run(study(trials), sweep.Options(results=results, max_concurrent=1))
    return in_order(query.trials(results, ["overhead"]).to_dict("records"))


def of_functions(trials: int, results: str) -> list[dict[str, Any]]:
    """Rows of the same trials, each a function in a process of its own."""
    spec = study(trials)
    plan = Plan(spec, "functions", results)
    configs = [spec.config(point) for point in spec.space.grid()]
    jobs = [plan.job(config, f"f-{n:05d}", 1).to_dict() for n, config in enumerate(configs)]
    with cluster.connected(None):
        from ray import tune

        tuner = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={"job": tune.grid_search(jobs)},
            tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=False),
            run_config=tune.RunConfig(storage_path=results, name="functions", verbose=0),
        )
        found = tuner.fit()
        rows = [result.metrics["trial"][0] for result in found if result.metrics]
    return in_order(rows)


def train(config: dict[str, Any]) -> None:
    """One trial as a plain Tune function."""
    import torch
    from ray import tune

    from trainables.job import Job, Run

    torch.set_num_threads(1)
    run = Run(Job(**config["job"]), torch.device("cpu"))
    while not run.finished:
        run.run_epoch()
    tune.report({"trial": [run.row("completed")]})


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["ended_at"])


def beyond_training(rows: list[dict[str, Any]]) -> list[float]:
    """Seconds from the end of the trial before to a trial's own, less its training steps."""
    return [
        (row["ended_at"] - before["ended_at"]).total_seconds() - row["train_seconds"]
        for before, row in itertools.pairwise(rows[FIRST - 1 :])
    ]


def between(rows: list[dict[str, Any]]) -> list[float]:
    """Seconds from the end of the trial before to the start of a trial's training."""
    return [
        (row["started_at"] - before["ended_at"]).total_seconds()
        for before, row in itertools.pairwise(rows[FIRST - 1 :])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        ours = of_sweep(options.trials, f"{results}/sweep")
        plain = of_functions(options.trials, f"{results}/functions")
    assert len(ours) == len(plain) == options.trials, (len(ours), len(plain))
    seconds = {
        name: {
            "between_trials": statistics.median(between(rows)),
            "beyond_training": statistics.median(beyond_training(rows)),
            "training": statistics.median(row["train_seconds"] for row in rows),
        }
        for name, rows in (("sweep", ours), ("function_per_process", plain))
    }
    mine, other = seconds.values()
    ratios = {key: other[key] / mine[key] for key in ("between_trials", "beyond_training")}
    result = {
        "command": f"python tests/benchmarks/overhead.py --trials {options.trials}",
        "seconds_per_further_trial": seconds,
        "ratios": ratios,
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "versions": versions(),
    }
    for key, ratio in ratios.items():
        print(
            f"{key.replace('_', ' ')}: {mine[key]:.3f} s in a sweep, {other[key]:.3f} s as a "
            f"function in its own process, {ratio:.0f} times as much"
        )
    print(f"{os.cpu_count()} cores, {platform.platform()}, {versions()}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
