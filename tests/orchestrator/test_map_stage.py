"""Which attribution maps a sweep wants before its trials start."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.sweeps import map_stage
from orchestrator.sweeps.map_stage import check_maps, wanted_maps
from orchestrator.sweeps.plan import Plan
from search_spaces.load import load_study
from trainables.attribution.map_settings import MapSettings
from trainables.errors import UserError


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    study = load_study("digits", ["train_fraction=1"])  # of few images trials compute maps
    return Plan(study, "s", str(tmp_path / "results"))


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """AT as if it read maps."""
    kinds = map_stage.term_class
    found = SimpleNamespace(reads_maps=True)
    monkeypatch.setattr(map_stage, "term_class", lambda n: found if n == "at" else kinds(n))


def test_a_sweep_without_readers_wants_none(plan: Plan) -> None:
    assert wanted_maps(plan) == {}
    check_maps(plan)


@pytest.mark.usefixtures("reading")
def test_those_of_its_teachers_with_the_parts_settings(plan: Plan) -> None:
    ((file, settings),) = wanted_maps(plan)
    assert file == plan.teachers.recipes[0].file
    assert settings == MapSettings()


@pytest.mark.usefixtures("reading")
def test_no_room_is_said_before_a_teacher_is_trained(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSWEEP_CACHE_GB", "0")
    with pytest.raises(UserError, match=r"no file of attribution maps: KDSWEEP_CACHE_GB is 0"):
        check_maps(plan)
