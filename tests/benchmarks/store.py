"""How long the store takes to write, compact and query a large sweep.

python tests/benchmarks/store.py --trials 10000 --epochs 30
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa

from orchestrator.query import connect, run_sql, trials
from orchestrator.results.store import Store

QUERIES = {
    "best per method": "SELECT method, max(val_acc) FROM trials GROUP BY method",
    "curve per method": "SELECT method, epoch, avg(e.val_acc) FROM epochs e "
    "JOIN trials USING (sweep, trial_id) GROUP BY ALL",
}


def trial_row(number: int, epochs: int) -> dict[str, object]:
    config = {"method": "kd+at", "temperature": number * 1e-3, "seed": number % 3, "lr": 0.05}
    return {
        "trial_id": f"bench-{number}",
        "attempt": 1,
        "status": "completed",
        "method": f"method{number % 17}",
        "dataset": "cifar100",
        "val_acc": number % 997 / 997,
        "epochs": epochs,
        "started_at": datetime.now(UTC),
        "config": json.dumps(config | {f"setting_{i}": i * 0.5 for i in range(30)}),
    }


def epoch_rows(number: int, epochs: int) -> list[dict[str, object]]:
    names = ("lr", "train_loss", "val_loss", "val_acc", "seconds", "images_per_second")
    return [
        {"trial_id": f"bench-{number}", "attempt": 1, "epoch": epoch}
        | {name: (number * 31 + epoch * 7 + i) % 1009 / 1009 for i, name in enumerate(names)}
        for epoch in range(1, epochs + 1)
    ]


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median(call: Callable[[], object], repeats: int = 5) -> float:
    return statistics.median(timed(call) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        store = Store(results, "bench")
        seconds = []
        for number in range(options.trials):
            store.add_epochs(epoch_rows(number, options.epochs))
            row = trial_row(number, options.epochs)
            seconds.append(timed(lambda row=row: store.add_trial(row)))
        print(f"{platform.machine()}, Python {platform.python_version()}, pyarrow {pa.__version__}")
        print(f"{options.trials} trials x {options.epochs} epochs, compacted while writing")
        print(
            f"add_trial, synced: median {1e3 * statistics.median(seconds):.1f} ms, "
            f"mean {1e3 * statistics.mean(seconds):.1f} ms, max {1e3 * max(seconds):.0f} ms"
        )
        print(f"trials() as it lies: {median(lambda: trials(results)):.3f} s")
        print(f"compact(): {timed(store.compact):.3f} s")
        print(f"trials() compacted: {median(lambda: trials(results)):.3f} s")
        for name, sql in QUERIES.items():
            print(f"run_sql, {name}: {median(lambda sql=sql: run_sql(results, sql)):.3f} s")
        with connect(results) as connection:
            for name, sql in QUERIES.items():
                fetch = median(lambda sql=sql: connection.sql(sql).fetchall())
                print(f"open connection, {name}: {fetch:.3f} s")


if __name__ == "__main__":
    main()
