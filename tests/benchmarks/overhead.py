"""What a further trial of a sweep costs beyond its training.

    python tests/benchmarks/overhead.py --trials 20

One sweep of very short trials (one epoch on a few digits), one at a time, through the real
sweep: searcher, journal, store, reused actors. Beside it, in the same run on the same machine,
the same trials as a plain Ray Tune function without reuse: each in a fresh process.

Overhead of a trial: the time from the end of the trial before it to its own end, less the
seconds of its training steps. So it holds everything else: validation and test, saving the
student, counting parameters and MACs, Ray, Optuna, rows on disk. The start of Ray and the
first trials, which start actors, are left out.
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

from orchestrator import cluster, query, sweep
from orchestrator.plan import Plan
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
    configs = [spec.config(point) for point in spec.grid()]
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


def overheads(rows: list[dict[str, Any]]) -> list[float]:
    """Seconds beyond training, of every trial but the first ones."""
    return [
        (row["ended_at"] - before["ended_at"]).total_seconds() - row["train_seconds"]
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
    medians = {
        "sweep": statistics.median(overheads(ours)),
        "function per process": statistics.median(overheads(plain)),
    }
    result = {
        "command": f"python tests/benchmarks/overhead.py --trials {options.trials}",
        "overhead_seconds_per_further_trial": medians,
        "ratio": medians["function per process"] / medians["sweep"],
        "spread_of_sweep": sorted(overheads(ours)),
        "spread_of_functions": sorted(overheads(plain)),
        "training_seconds": statistics.median(row["train_seconds"] for row in ours),
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "versions": versions(),
    }
    print(
        f"overhead per further trial: {medians['sweep']:.3f} s in a sweep, "
        f"{medians['function per process']:.3f} s as a function in its own process: "
        f"{result['ratio']:.0f} times as much"
    )
    print(f"{os.cpu_count()} cores, {platform.platform()}, {versions()}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
