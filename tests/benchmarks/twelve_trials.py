"""What further trials of a sweep cost once the teacher has been asked.

    python tests/benchmarks/twelve_trials.py --data DATA [--json FILE]

Twelve KD trials (temperatures by weights) on a part of CIFAR-10 from the imported ResNet-56
teacher (``DATA/teachers``), one after the other, each on all cores, through the real sweep. In
the same run: one trial that asks the live teacher all the time. Compared are the training times
of the rows, and the wall time from the first row's start to the last one's end, which holds what
a sweep does between trials, too.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from orchestrator import query
from orchestrator.sweeps import sweep
from search_spaces.load import parse_study
from trainables.data.sources import load_dataset
from trainables.teachers.importing import import_teacher
from trainables.version import versions


def study(name: str, cache: str, trials: int, student: str) -> Any:
    return parse_study(
        {
            "name": name,
            "dataset": "cifar10",
            "teacher": {"name": "resnet56"},
            "fixed": {
                "student": student,
                "method": "kd",
                "epochs": 2,
                "train_fraction": 0.1,
                "val_fraction": 0.02,
                "teacher_cache": cache,
            },
            "dimensions": {"kd.temperature": [1.0 + number for number in range(trials)]},
            "objectives": {"val_acc": "max"},
            "sampler": "grid",
        }
    )


def trained(name: str, cache: str, trials: int, options: Any, student: str) -> Any:
    sweep.run(study(name, cache, trials, student), options)
    return query.trials(options.results, [name]).sort_values("started_at")


def seconds(rows: Any) -> float:
    return float((rows["ended_at"].max() - rows["started_at"].min()).total_seconds())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", default=os.environ.get("KDSWEEP_DATA"))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDSWEEP_CACHE"] = f"{folder}/cache"
        results = f"{folder}/results"
        (file,) = Path(given.data, "teachers").glob("resnet56*.th")
        dataset = load_dataset("cifar10", given.data)
        import_teacher("resnet56", str(file), dataset, results=results)
        options = sweep.Options(results=results, data_dir=given.data, max_concurrent=1)
        live = trained("live", "off", 1, options, given.student)
        ours = trained("cached", "float16", given.trials, options, given.student)
    rates = ours["teacher_cache_hit_rate"].tolist()
    training = ours["train_seconds"].tolist()
    alone, together = seconds(live), seconds(ours)
    found = {
        "command": f"python tests/benchmarks/twelve_trials.py --student {given.student}",
        "one_uncached_trial_seconds": alone,
        "its_training_seconds": float(live["train_seconds"].iloc[0]),
        "all_trials_seconds": together,
        "training_seconds": training,
        "hit_rates": rates,
        "wall_against_uncached": together / (given.trials * alone),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "versions": versions(),
    }
    print(
        f"{given.trials} trials in {together:.1f} s; {given.trials} uncached ones would take "
        f"{given.trials * alone:.1f} s: {found['wall_against_uncached']:.2f} of it\n"
        f"training: first {training[0]:.1f} s, later {min(training[1:]):.1f} to "
        f"{max(training[1:]):.1f} s, uncached {found['its_training_seconds']:.1f} s\n"
        f"hit rates {rates[0]:.3f}, then {min(rates[1:]):.3f} to {max(rates[1:]):.3f}"
    )
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
