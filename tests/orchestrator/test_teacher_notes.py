"""A sweep goes on only with the teachers that it began with."""

from pathlib import Path

import pytest
import yaml

from orchestrator.results.record import TEACHERS, read_record
from orchestrator.results.store import Store
from orchestrator.sweeps import notes, sweep
from orchestrator.sweeps.plan import Plan
from search_spaces.load import parse_study
from trainables.errors import UserError

STUDY = {
    "name": "s",
    "dataset": "digits",
    "teacher": {"name": "t1"},
    "fixed": {"student": "wrn_10_0.5", "epochs": 1},
    "dimensions": {"method": ["kd", "student"]},
    "sampler": "grid",
}


@pytest.fixture
def options(tmp_path: Path) -> sweep.Options:
    return sweep.Options(results=str(tmp_path / "results"))


def begin(options: sweep.Options) -> Store:
    """A sweep as it stands when its first trial starts."""
    plan = Plan(parse_study(STUDY), "s", options.results).with_teachers()
    notes.write_study(plan)
    return Store(options.results, "s")


def test_a_replaced_teacher_is_refused(imported, options: sweep.Options) -> None:
    first = imported(1)
    store = begin(options)
    assert read_record(store).notes[TEACHERS] == {"t1": first.fingerprint}
    assert sweep.reopen("s", options).cards["t1"] == first
    imported(2, replacing=True)
    before = sorted(path.name for path in Path(options.results).rglob("*"))
    with pytest.raises(UserError) as caught:
        sweep.reopen("s", options)
    text = str(caught.value)
    assert text.startswith("teacher 't1' has changed since the sweep began")
    assert text.endswith("the one that is meant is now 't1.1'")
    assert len(text) < 300
    assert sorted(path.name for path in Path(options.results).rglob("*")) == before


def test_a_teacher_that_the_sweep_trained_is_noted_too(imported, options: sweep.Options) -> None:
    """It is there only after the sweep has begun."""
    imported(1, "other")
    study = STUDY | {"teacher": {"name": "other"}}
    plan = Plan(parse_study(study), "s", options.results).with_teachers()
    untrained = Plan(parse_study(study), "s", options.results)
    notes.write_study(untrained)
    store = Store(options.results, "s")
    assert read_record(store).notes[TEACHERS] == {}
    text = store.read_study()
    notes.note_teachers(plan)
    assert read_record(store).notes[TEACHERS] == {"other": plan.cards["other"].fingerprint}
    assert store.read_study().splitlines()[:2] == text.splitlines()[:2], "the comment stays"
    imported(2, "other", replacing=True)
    changed = Plan(parse_study(study), "s", options.results).with_teachers()
    with pytest.raises(UserError, match="'other' has changed since the sweep began"):
        notes.note_teachers(changed)


def test_a_job_names_the_teacher_that_is_meant(imported, options: sweep.Options) -> None:
    card = imported(1)
    plan = Plan(parse_study(STUDY), "s", options.results).with_teachers()
    config = plan.study.config({"method": "kd"})
    assert plan.job(config, "s-00000", 1).teacher_fingerprint == card.fingerprint


def test_sweeps_of_older_versions_noted_none(imported, options: sweep.Options) -> None:
    imported(1)
    store = begin(options)
    content = yaml.safe_load(store.read_study())
    del content["kdsweep"][TEACHERS]
    store.save_study(yaml.safe_dump(content))
    imported(2, replacing=True)
    assert sweep.reopen("s", options).cards["t1"].name == "t1"
