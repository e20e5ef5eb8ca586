"""Rows of a sweep with no more columns than they need."""

from orchestrator.results.store import Store


def trial(number: int, **columns) -> dict:
    """The row of trial ``s-number``."""
    return {"trial_id": f"s-{number}", "attempt": 1, "status": "completed", **columns}


def epoch(number: int, epoch: int, **columns) -> dict:
    """A row of trial ``s-number``'s epochs."""
    return {"trial_id": f"s-{number}", "attempt": 1, "epoch": epoch, "val_acc": 0.5, **columns}


def ids(store: Store) -> list[str]:
    """Of its trials, as they are read."""
    return store.read("trials")["trial_id"].to_pylist()
