"""What alignment is worth: students whose images are overlaid with their own maps, with those of
other images, and without, paired by seed.

python tests/benchmarks/ablation_of_alignment.py SWEEP --results DIR [--json FILE]
python tests/benchmarks/ablation_of_alignment.py SWEEP --results DIR --data DATA [--json FILE]
    [--student resnet8] [--epochs 5] [--train-fraction 0.05] [--seeds 5] [--probability 0.5]

The first reads a sweep, such as one of the study `ig_alignment_cifar10`. With --data a reduced one
runs first: CIFAR-10, maps of the imported ResNet-20 in ``DATA/teachers``, half of the images
overlaid, so that there is more to see than at the published tenth. Of every two arms of a method
the mean difference of test accuracy over seeds, with Student's 95 % interval of it: seeds share
weights, order and views.
"""

import argparse
import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from bf16_parity import interval

from orchestrator import query
from orchestrator.sweeps import sweep
from search_spaces.load import parse_study
from trainables.data.sources import load_dataset
from trainables.methods.registry import parse_method
from trainables.teachers.importing import import_teacher
from trainables.version import versions

ARMS = ("aligned", "shuffled", "plain")
TEACHER = "resnet20"


def study(given: argparse.Namespace) -> Any:
    return parse_study(
        {
            "name": given.sweep,
            "dataset": "cifar10",
            "teacher": {"name": TEACHER},
            "fixed": {
                "student": given.student,
                "epochs": given.epochs,
                "batch_size": 64,
                "lr": 0.05,
                "nesterov": True,
                "weight_decay": 5e-4,
                "schedule": "cosine",
                "train_fraction": given.train_fraction,
                "val_fraction": 0.02,
                "ig.probability": given.probability,
                "ig.steps": given.steps,
            },
            "dimensions": {"method": ["student", "ig"], "ig.alignment": ["aligned", "shuffled"]},
            "sampler": "grid",
            "repeats": given.seeds,
            "objectives": {"val_acc": "max"},
        }
    )


def run(given: argparse.Namespace) -> None:
    (file,) = Path(given.data, "teachers").glob(f"{TEACHER}-*.th")
    dataset = load_dataset("cifar10", given.data)
    import_teacher(TEACHER, str(file), dataset, results=given.results)
    options = sweep.Options(results=given.results, data_dir=given.data, max_concurrent=given.slots)
    sweep.run(study(given), options)


def arm_of(row: pd.Series) -> tuple[str, str]:
    """The method without `ig`, and what its images are under."""
    config, parts = json.loads(row["config"]), parse_method(row["method"])
    rest = "+".join(part for part in parts if part != "ig") or "student"
    return rest, config.get("ig.alignment", "aligned") if "ig" in parts else "plain"


def paired(one: pd.Series, other: pd.Series) -> dict[str, Any]:
    """Of accuracies by seed: the mean difference in points, and its interval."""
    seeds = one.index.intersection(other.index)
    mean, low, high = interval(one.loc[seeds] - other.loc[seeds])
    return {
        "difference": round(mean, 2),
        "interval": [round(low, 2), round(high, 2)],
        "seeds": len(seeds),
    }


def compared(rows: pd.DataFrame) -> dict[str, Any]:
    """By method the means of its arms and the differences of every two."""
    rows = rows[rows["status"] == "completed"].copy()
    rows[["rest", "arm"]] = [arm_of(row) for _, row in rows.iterrows()]
    found: dict[str, Any] = {}
    for rest, some in rows.groupby("rest"):
        by_seed = {
            arm: some[some["arm"] == arm].set_index("seed")["test_acc"].sort_index()
            for arm in ARMS
            if (some["arm"] == arm).any()
        }
        for arm, values in by_seed.items():
            if not values.index.is_unique:
                raise SystemExit(f"{rest}, {arm}: several configs of one seed, which is not paired")
        found[str(rest)] = {
            "test_acc": {
                arm: {"mean": round(100 * v.mean(), 2), "std": round(100 * v.std(), 2)}
                for arm, v in by_seed.items()
            },
            "differences": {
                f"{one} - {other}": paired(by_seed[one], by_seed[other])
                for one, other in combinations(by_seed, 2)
            },
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("--results", required=True)
    parser.add_argument("--data", help="run a reduced sweep first")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train-fraction", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--probability", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=20, help="of the maps")
    parser.add_argument("--slots", type=int, help="trials at once")
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    given = parser.parse_args()
    if given.data:
        run(given)
    rows = query.trials(given.results, [given.sweep])
    found = compared(rows)
    for rest, one in found.items():
        means = (f"{arm} {v['mean']:.2f} ± {v['std']:.2f} %" for arm, v in one["test_acc"].items())
        print(f"{rest}: test accuracy, mean and deviation over seeds: {', '.join(means)}")
        for name, d in one["differences"].items():
            low, high = d["interval"]
            print(
                f"  {name}: {d['difference']:+.2f} points, 95 % [{low:+.2f}, {high:+.2f}], "
                f"{d['seeds']} seeds"
            )
    if given.json:
        settings = {k: v for k, v in vars(given).items() if k not in ("results", "data", "json")}
        result = {
            "command": "python tests/benchmarks/ablation_of_alignment.py "
            f"{given.sweep} --results DIR" + (" --data DATA" if given.data else ""),
            "settings": settings if given.data else json.loads(rows["config"].iloc[0]),
            "maps": sorted(set(rows["attribution_maps"].dropna())),
            "compared": found,
            "cores": len(os.sched_getaffinity(0)),
            "versions": versions(),
        }
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
