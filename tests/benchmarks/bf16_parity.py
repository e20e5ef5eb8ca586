"""Whether training in bf16 costs accuracy: the demonstration's data, several seeds.

    python tests/benchmarks/bf16_parity.py --seeds 5 [--json FILE]

The same KD trials in fp32 and in bf16 (student and teacher), seed by seed through the real sweep;
of the differences in validation and test accuracy the mean and its 95 % interval (Student's t).
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from orchestrator import query
from orchestrator.sweeps import sweep
from search_spaces.load import parse_study
from trainables.version import versions


def study(seeds: int) -> Any:
    return parse_study(
        {
            "name": "parity",
            "dataset": "digits",
            "teacher": {"model": "wrn_16_2", "epochs": 40, "precision": "fp32"},
            "fixed": {
                "student": "wrn_16_1",
                "method": "kd",
                "epochs": 20,
                "lr": 0.05,
                "nesterov": True,
                "val_fraction": 0.2,
            },
            "dimensions": {"precision": ["fp32", "bf16"]},
            "objectives": {"val_acc": "max"},
            "sampler": "grid",
            "repeats": seeds,
        }
    )


def interval(differences: Any) -> tuple[float, float, float]:
    """Mean and 95 % interval, in points."""
    points = 100 * np.asarray(differences, dtype=float)
    mean, error = points.mean(), stats.sem(points)
    half = stats.t.ppf(0.975, len(points) - 1) * error
    return float(mean), float(mean - half), float(mean + half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep.run(study(given.seeds), sweep.Options(results=folder))
        rows = query.trials(folder, ["parity"])
    found: dict[str, Any] = {
        "command": f"python tests/benchmarks/bf16_parity.py --seeds {given.seeds}",
        "versions": versions(),
    }
    for metric in ("val_acc", "test_acc"):
        table = rows.pivot(index="seed", columns="precision", values=metric)
        mean, low, high = interval(table["bf16"] - table["fp32"])
        found[metric] = {
            "fp32": table["fp32"].tolist(),
            "bf16": table["bf16"].tolist(),
            "difference_points": {"mean": mean, "low": low, "high": high},
        }
        print(
            f"{metric}: bf16 less fp32 {mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f} "
            f"({given.seeds} seeds): {'holds' if low <= 0 <= high else 'does NOT hold'} zero"
        )
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
