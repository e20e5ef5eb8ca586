"""Commands that must be refused, and a sweep to name in them."""

from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.results.record import write_record
from orchestrator.results.store import Store
from orchestrator.sweeps.plan import Plan
from search_spaces.load import load_study


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Runs a command that must be refused in one line, and leave no trace."""
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def check(*arguments: str) -> str:
        before = contents(tmp_path)
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        assert code == 2
        assert captured.out == ""
        assert captured.err.startswith("kdsweep: ")
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1, captured.err
        assert contents(tmp_path) == before
        return captured.err

    return check


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def finished(tmp_path) -> str:
    """A results folder with a sweep `s` that has one trial, which failed."""
    study = load_study("digits", ["epochs=1", "teacher.epochs=1"])
    plan = Plan(study, "s", str(tmp_path / "finished"))
    config = study.config({"method": "student", "factor": 2})
    store = Store(plan.results, "s")
    notes = {"data_dir": None, "data_fingerprint": plan.dataset.fingerprint}
    write_record(store, study, notes)
    row = {"trial_id": "s-00000", "attempt": 1, "status": "failed", "error": "Diverged: nan"}
    row |= {"method": "student", "dataset": "digits", "config": config.to_json()}
    store.add_trial(row | {"stage": "search"})
    return plan.results
