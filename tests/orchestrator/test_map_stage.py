"""Which attribution maps a sweep wants before its trials start."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from orchestrator.sweeps import map_stage
from orchestrator.sweeps.map_stage import check_maps, wanted_maps
from orchestrator.sweeps.plan import Plan
from search_spaces.load import load_study, parse_study
from trainables.attribution.map_settings import MapSettings
from trainables.errors import UserError
from trainables.training import shown_maps
from trainables.training.shown_images import split_images


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    return plan_of(tmp_path, "train_fraction=1")


def plan_of(tmp_path: Path, *overrides: str) -> Plan:
    return Plan(load_study("digits", overrides), "s", str(tmp_path / "results"))


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """AT as if it read maps."""
    kinds = map_stage.term_class
    found = SimpleNamespace(reads_maps=True)
    monkeypatch.setattr(map_stage, "term_class", lambda n: found if n == "at" else kinds(n))


def test_a_sweep_without_readers_wants_none(plan: Plan) -> None:
    assert wanted_maps(plan) == []
    check_maps(plan)


@pytest.mark.usefixtures("reading")
def test_those_of_its_teachers_with_the_parts_settings(plan: Plan) -> None:
    ((file, settings, images),) = wanted_maps(plan)
    assert file == plan.teachers.recipes[0].file
    assert settings == MapSettings()
    assert images(plan.dataset) is plan.dataset


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("seed", [0, 3])
def test_of_few_images_those_that_every_seed_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The stage stores exactly what a trial of the sweep looks for."""
    plan = plan_of(tmp_path, "train_fraction=0.1", "val_fraction=0.2", "split_seed=7")
    ((_, settings, images),) = wanted_maps(plan)
    asked = []
    monkeypatch.setattr(shown_maps, "stored_maps", lambda *args: asked.append(args))
    config = next(config for _, config in plan.corners() if "at" in config.method)
    trained, _ = split_images(config.replace(seed=seed), plan.dataset)
    shown_maps.place_maps(None, plan.dataset, settings, trained, torch.device("cpu"))
    ((_, there, *_),) = asked
    stored = images(plan.dataset)
    assert len(stored.train) == len(trained) < len(plan.dataset.train)
    assert stored.fingerprint == there.fingerprint != plan.dataset.fingerprint
    assert torch.equal(stored.train.images, there.train.images)


@pytest.mark.usefixtures("reading")
def test_shares_of_the_images_that_are_searched_have_maps_each(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    study = plan.study.model_dump()
    study["dimensions"]["train_fraction"] = {"choices": [0.1, 0.2]}
    study["fixed"].pop("train_fraction")
    searched = Plan(parse_study(study), "s", str(tmp_path / "results"))
    sizes = [len(maps.images(plan.dataset).train) for maps in wanted_maps(searched)]
    assert len(sizes) == 2
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.1)


@pytest.mark.usefixtures("reading")
def test_where_each_seed_has_few_of_its_own_trials_compute_them(tmp_path: Path) -> None:
    assert wanted_maps(plan_of(tmp_path, "train_fraction=0.1", "resample=true")) == []


@pytest.mark.usefixtures("reading")
def test_no_room_is_said_before_a_teacher_is_trained(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSWEEP_CACHE_GB", "0")
    with pytest.raises(UserError, match=r"no file of attribution maps: KDSWEEP_CACHE_GB is 0"):
        check_maps(plan)
