"""A teacher's attribution maps: computed once, whatever dies meanwhile, and never another's."""

import copy
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.cli import main
from trainables.attribution.integrated_gradients import (
    IntegratedGradients,
    IntegratedGradientsConfig,
)
from trainables.attribution.map_settings import MapSettings
from trainables.data.dataset import Dataset, Images
from trainables.data.views import to_float
from trainables.errors import TeacherBroken, UserError
from trainables.teachers import maps as making
from trainables.teachers.map_file import MapFile
from trainables.teachers.maps import computing, map_key, map_path, stored_maps
from trainables.teachers.teacher import Teacher

CPU = torch.device("cpu")
QUICK = MapSettings(steps=2)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Maps of this test alone."""
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    making._KEPT.clear()


@pytest.fixture
def teacher(digits_teacher: Any) -> Teacher:
    found: Teacher = digits_teacher.load()
    return found


@pytest.fixture
def few(digits: Dataset) -> Dataset:
    return part_of(digits, 600)


def part_of(data: Dataset, count: int) -> Dataset:
    """A data set of some of the images."""
    train = Images(data.train.images[:count], data.train.labels[:count])
    name = f"{data.fingerprint} to {count}"
    return dataclasses.replace(data, train=train, fingerprint=name)


def file_of(teacher: Teacher, data: Dataset, settings: MapSettings = QUICK) -> Path:
    return map_path(map_key(teacher.card.fingerprint, data, settings))


def explained(teacher: Teacher, data: Dataset, settings: MapSettings, targets: Tensor) -> Tensor:
    """Maps by the explainer, divided by their largest values."""
    pixels = to_float(data.train.images, teacher.card.mean, teacher.card.std).contiguous()
    config = IntegratedGradientsConfig(steps=settings.steps, baseline=settings.baseline)
    explainer = IntegratedGradients(config, teacher.network, (teacher.card.mean, teacher.card.std))
    found = explainer.attribute(pixels, targets).abs().sum(1)
    return found / found.amax((1, 2), keepdim=True)


@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_a_map_is_its_own_images(teacher: Teacher, few: Dataset, baseline: str) -> None:
    """By position, of the label, alone or in company."""
    settings = MapSettings(steps=5, baseline=baseline)
    found = stored_maps(teacher, few, settings, CPU)
    expected = explained(teacher, few, settings, few.train.labels)
    assert found.values.shape == (600, 8, 8)
    assert (found.values.float() - expected).abs().max() < 1e-3
    assert (found.values.float().amax((1, 2)) == 1).all()
    there = torch.tensor([599, 3, 3])
    assert torch.equal(found.of(there)[:, 0], found.values[there])
    assert (found.values[3].float() - expected[4]).abs().max() > 0.1  # and not another's
    one = part_of(few, 1)
    alone = stored_maps(teacher, one, settings, CPU).values
    assert (alone[0].float() - found.values[0].float()).abs().max() < 1e-3


def test_what_maps_are_is_told(teacher: Teacher, few: Dataset, caplog: Any) -> None:
    found = stored_maps(teacher, few, QUICK, CPU)
    error = found.facts["completeness_error"]
    assert {**found.facts, "completeness_error": None} == {
        "explainer": "integrated_gradients",
        "target": "label",
        "baseline": "mean",
        "steps": 2,
        "quadrature": "gausslegendre",
        "completeness_error": None,
    }
    finer = stored_maps(teacher, few, MapSettings(steps=40), CPU).facts["completeness_error"]
    assert 0 < finer < error
    assert "600 maps of 8x8, IG of label from mean, 2 steps: 0 MB" in caplog.text


def test_of_what_the_teacher_takes_it_for(teacher: Teacher, few: Dataset) -> None:
    pixels = few.train.images
    said = teacher(pixels).logits.argmax(1)
    wrong = dataclasses.replace(
        few, train=Images(pixels, (said + 1) % 10), fingerprint="other labels"
    )
    settings = MapSettings(steps=5, target="teacher")
    found = stored_maps(teacher, wrong, settings, CPU).values.float()
    assert (found - explained(teacher, few, settings, said)).abs().max() < 1e-3
    of_labels = stored_maps(teacher, wrong, MapSettings(steps=5), CPU).values.float()
    assert (found - of_labels).abs().max() > 0.1


def test_of_several_labels_their_logits_are_summed(teacher: Teacher, few: Dataset) -> None:
    some = part_of(few, 4)
    labels = F.one_hot(some.train.labels, 10).to(torch.uint8)
    labels[0, (int(some.train.labels[0]) + 1) % 10] = 1
    labels[2] = 0
    many = dataclasses.replace(
        some, train=Images(some.train.images, labels), fingerprint="several labels"
    )
    found = stored_maps(teacher, many, QUICK, CPU)
    single = stored_maps(teacher, some, QUICK, CPU)
    assert torch.equal(found.values[1], single.values[1])
    assert (found.values[0] - single.values[0]).abs().max() > 0.01
    assert (found.values[2] == 0).all()
    assert np.isfinite(found.facts["completeness_error"])


def test_a_process_keeps_them(teacher: Teacher, few: Dataset) -> None:
    found = stored_maps(teacher, few, QUICK, CPU)
    file_of(teacher, few).unlink()
    assert stored_maps(teacher, few, QUICK, CPU) is found


def test_others_are_never_found(teacher: Teacher, few: Dataset) -> None:
    """Another teacher's, data set's or kind: in other files, and refused in this one's place."""
    stored_maps(teacher, few, QUICK, CPU)
    path = file_of(teacher, few)
    for fingerprint, data, settings in (
        ("other", few, QUICK),
        (teacher.card.fingerprint, part_of(few, 599), QUICK),
        (teacher.card.fingerprint, few, MapSettings(steps=2, baseline="black")),
    ):
        key = map_key(fingerprint, data, settings)
        assert map_path(key) != path
        path.rename(map_path(key))
        with pytest.raises(UserError, match=r"other content than its name says; delete it"):
            MapFile(map_path(key), key)
        map_path(key).rename(path)


def rot(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_a_damaged_map_is_computed_again(teacher: Teacher, few: Dataset, caplog: Any) -> None:
    stored_maps(teacher, few, QUICK, CPU)
    path = file_of(teacher, few)
    whole = path.read_bytes()
    for place in (4096 + 300 * 128 + 1, len(whole) - 1, len(whole) - 33 * 3 - 100):
        rot(path, place)
        making._KEPT.clear()
        stored_maps(teacher, few, QUICK, CPU)
        assert "1 of 3 parts are damaged and computed again" in caplog.text
        caplog.clear()
        assert path.read_bytes() == whole


def test_a_damaged_header_is_refused(teacher: Teacher, few: Dataset) -> None:
    stored_maps(teacher, few, QUICK, CPU)
    rot(file_of(teacher, few), 60)
    making._KEPT.clear()
    with pytest.raises(UserError, match=r"header is damaged; delete it with 'kdsweep cache clear'"):
        stored_maps(teacher, few, QUICK, CPU)


def test_maps_that_are_no_numbers_are_refused(teacher: Teacher, few: Dataset) -> None:
    broken = Teacher(copy.deepcopy(teacher.network), teacher.card, CPU)
    with torch.no_grad():
        broken.network.classifier.weight[3] = torch.nan
    with pytest.raises(TeacherBroken, match=r"no finite integrated gradients of training image"):
        stored_maps(broken, few, QUICK, CPU)


@pytest.mark.parametrize("limit", ["0", "0.00001"])
def test_the_cap_is_that_of_the_tables(
    teacher: Teacher, few: Dataset, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("KDSWEEP_CACHE_GB", limit)
    with pytest.raises(UserError, match=r"no file of attribution maps: .*KDSWEEP_CACHE_GB"):
        stored_maps(teacher, few, QUICK, CPU)


def test_they_are_listed_and_cleared(
    teacher: Teacher, few: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = computing(teacher, few, QUICK, CPU)
    assert [next(moments).done for _ in range(3)] == [None, 256, 512]
    moments.close()
    name = file_of(teacher, few).name
    assert main(["cache", "list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if name in line]
    assert "IG of label from mean, 2 steps" in line
    assert "float16" in line
    assert "85.3 %" in line
    assert main(["cache", "clear", name]) == 0
    assert main(["cache", "list"]) == 0
    assert name not in capsys.readouterr().out
    stored_maps(teacher, few, QUICK, CPU)
    assert main(["cache", "clear"]) == 0
    assert not [*file_of(teacher, few).parent.iterdir()]


# Processes

COMPUTE = """
import sys, torch
torch.set_num_threads(1)
from trainables.attribution.map_settings import MapSettings
from trainables.data.sources import load_dataset
from trainables.teachers.maps import computing
from trainables.teachers.teacher import load_teacher
cpu, teacher = torch.device("cpu"), load_teacher(*sys.argv[1:], "cpu")
for moment in computing(teacher, load_dataset("digits"), MapSettings(steps=2), cpu):
    if moment.done is not None:
        print(moment.done, flush=True)
"""


def start(digits_teacher: Any, cache: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", COMPUTE, digits_teacher.results, digits_teacher.file],
        env=os.environ | {"KDSWEEP_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def lines_of(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout.readline, "")


def test_a_killed_computing_goes_on_in_two_processes(
    digits_teacher: Any, digits: Dataset, teacher: Teacher, tmp_path: Path
) -> None:
    """Byte for byte what an undisturbed one computes; nothing that was there is done again, and
    nothing twice."""
    first = start(digits_teacher, tmp_path / "killed")
    for line in lines_of(first):
        if line.startswith("512"):
            first.kill()
            break
    first.communicate(timeout=60)
    two = [start(digits_teacher, tmp_path / "killed") for _ in range(2)]
    counts = [int(word) for one in two for word in one.communicate(timeout=120)[0].split()]
    whole = [*range(256, len(digits.train), 256), len(digits.train)]
    assert sorted(counts) in (whole[2:], whole[3:])
    stored_maps(teacher, digits, QUICK, CPU)
    path = file_of(teacher, digits)
    again = tmp_path / "killed" / path.parent.name / path.name
    assert again.read_bytes() == path.read_bytes()
