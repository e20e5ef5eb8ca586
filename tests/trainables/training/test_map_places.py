"""Attribution maps that a device has no room for stay on the host, and train the same student."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from trainables.attribution.map_settings import MapSettings
from trainables.config import TrialConfig
from trainables.data import resident
from trainables.data.dataset import Dataset
from trainables.once import warn_once
from trainables.teachers import maps as making
from trainables.teachers.maps import StoredMaps, stored_maps
from trainables.training import Training

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
Train = Callable[..., Training]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Maps of this test alone."""
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    yield
    making._KEPT.clear()


@pytest.fixture
def train(quick: Callable[..., TrialConfig], digits: Dataset, digits_teacher) -> Train:
    def make(**changes: object) -> Training:
        values = {"ig.steps": 2, "ig.probability": 0.5, "epochs": 1, "crop_padding": 2}
        config = quick(method="ig", teacher="resnet8", train_fraction=0.1, **(values | changes))
        return Training(config, digits, config.student, digits_teacher.load(), CPU)

    return make


def stored(training: Training) -> StoredMaps:
    shown = training.learner.maps
    assert shown is not None
    return shown.stored


@pytest.mark.parametrize("alignment", ["aligned", "shuffled"])
def test_maps_of_the_host_are_the_same(train: Train, alignment: str) -> None:
    here, there = (
        train(images=where, **{"ig.alignment": alignment}) for where in ("host", "device")
    )
    assert [stored(training).on_host for training in (here, there)] == [True, False]
    feeds = [list(training.stream(0, training.stream.plan(0))) for training in (here, there)]
    for one, other in zip(*feeds, strict=True):
        assert torch.equal(here.learner.maps(one), there.learner.maps(other))
    losses = [training.run_epoch()["train_loss"] for training in (here, there)]
    assert losses[0] == losses[1]


def test_whoever_has_too_little_memory_keeps_them_on_the_host(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not stored(train()).on_host
    making._KEPT.clear()
    monkeypatch.setattr(resident, "HOST_SHARE", 0.0)
    assert stored(train()).on_host


def test_where_they_are_is_asked_each_time(digits: Dataset, digits_teacher) -> None:
    """A process keeps them between trials; a trial that wants them elsewhere gets its own."""
    asked = digits_teacher.load(), digits, MapSettings(steps=2), CPU
    found = {where: stored_maps(*asked, where) for where in ("device", "host")}
    assert [one.on_host for one in found.values()] == [False, True]
    assert stored_maps(*asked, "host") is found["host"]
    rows = torch.tensor([5, 0, 5])
    expected = found["device"].of(rows)
    assert expected.shape == (3, 1, 8, 8)
    assert torch.equal(found["host"].of(rows), expected)
    assert torch.equal(found["host"].of(rows, rows), expected)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_without_room_nothing_waits(
    digits: Dataset, digits_teacher, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    gpu = torch.device("cuda")
    made = stored_maps(digits_teacher.load(), digits, MapSettings(steps=2), CPU)
    teacher = digits_teacher.load()
    monkeypatch.setattr(resident, "SHARE", 1e-9)
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = stored_maps(teacher, digits, MapSettings(steps=2), gpu)
    assert found.on_host
    assert (
        caplog.text.count("the attribution maps stay in the host's memory: they take 0.0 GiB") == 1
    )
    rows = torch.tensor([5, 0, 5])
    there = rows.to(gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = found.of(there, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert batch.is_cuda
    assert torch.equal(batch.cpu(), made.of(rows))
