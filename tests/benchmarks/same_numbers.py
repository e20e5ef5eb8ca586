"""Whether a rebuild keeps the numbers: a study of every method, recorded and compared to the digit.

    python tests/benchmarks/same_numbers.py record FOLDER      # with the code before
    python tests/benchmarks/same_numbers.py record OTHER       # with the code after
    python tests/benchmarks/same_numbers.py compare FOLDER OTHER

Digits, every term and modifier at two compression factors under an assistant that was distilled
itself, mutual learning of three, a network of timm. One trial after the other in fp32, so that
neither what is faster nor who is first to ask the teacher decides a digit. Equal on one machine
with one set of versions; some minutes on two cores.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from orchestrator.cli import main
from orchestrator.query import epochs, trials
from trainables.methods.registry import PLAIN, term_names

MODIFIERS = ("ls",)
"""Terms that need another one beside them."""

FIXED = {
    "batch_size": 32,
    "epochs": 2,
    "precision": "fp32",
    "train_fraction": 0.2,
    "val_fraction": 0.2,
}
SHORT = {"epochs": 2, "precision": "fp32"}
ASSISTANT = {"model": "wrn_16_1", "method": "kd", "teacher": "resnet20"} | SHORT
ALONE = [name for name in term_names() if name not in MODIFIERS]
STUDIES: dict[str, dict[str, Any]] = {
    "methods": {
        "teacher": ASSISTANT,
        "fixed": {"student": "wrn", "compression": "factor"} | FIXED,
        "dimensions": {
            "method": [PLAIN, *ALONE, "kd+ls", "kd+mixup", "kd+at", "kd+dml"],
            "factor": [2.25, 9],
            "dml.peers": [2],
        },
    },
    "stages": {
        "teacher": ASSISTANT,
        "fixed": {"student": "mobilenetv2_x0.25", "fitnet.schedule": "two_stage"} | FIXED,
        "dimensions": {"method": ["fitnet"], "lr": [0.01], "optimizer": ["sgd", "adamw"]},
    },
    "libraries": {
        "teacher": {"model": "wrn_16_1"} | SHORT,
        "fixed": {"student": "timm:resnet18"} | FIXED,
        "dimensions": {"method": [PLAIN, "kd", "at"]},
    },
}

KEPT = {
    "trials": [
        *("method", "student", "status", "term_losses", "train_loss", "val_loss", "test_loss"),
        *("val_acc", "test_acc", "peer_val_acc", "peer_test_acc", "teacher_test_acc"),
        *("params", "macs", "size_bytes", "compression_params", "compression_macs"),
    ],
    "epochs": ["epoch", "lr", "train_loss", "val_loss", "val_acc"],
}
"""What must be equal."""


def record(folder: Path) -> int:
    """Runs the studies; their results are in the folder."""
    with TemporaryDirectory() as scratch:
        for name, study in STUDIES.items():
            file = Path(scratch, f"{name}.yaml")
            whole = {"name": name, "dataset": "digits", "sampler": "grid", **study}
            file.write_text(yaml.safe_dump(whole))
            where = ["--results", str(folder), "--max-concurrent", "1"]
            if code := main(["run", str(file), *where]):
                return code
    return 0


def compare(before: Path, after: Path) -> int:
    """Says what differs; returns how many values do."""
    wrong = 0
    for name in STUDIES:
        for table, read in (("trials", trials), ("epochs", epochs)):
            place_of = ["trial_id", "epoch"] if table == "epochs" else ["trial_id"]
            old, new = (
                read(str(folder), [name]).set_index(place_of, drop=False)
                for folder in (before, after)
            )
            for column in KEPT[table]:
                for place in old.index.union(new.index):
                    pair = [
                        frame.loc[place, column] if place in frame.index else "no row"
                        for frame in (old, new)
                    ]
                    if pair[0] != pair[1] and not all(value != value for value in pair):
                        wrong += 1
                        print(f"{name} {place} {column}: {pair[0]} -> {pair[1]}")
            print(f"{name}: {len(old)} {table} compared")
    print("equal to the last digit" if not wrong else f"{wrong} values differ")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args()
    sys.exit(bool(record(*given.folders) if given.what == "record" else compare(*given.folders)))
