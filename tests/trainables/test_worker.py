"""What a process keeps between trials, and that it lets go of all of it."""

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainables.config import TrialConfig
from trainables.data.resident import place_images
from trainables.data.sources import load_dataset
from trainables.engine.compiling import CompiledNetwork
from trainables.job import Job, Run
from trainables.models.blueprint import Blueprint, build
from trainables.models.registry import create_model
from trainables.worker import WORKER, Store, kept

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    WORKER.release()
    yield
    WORKER.release()


def held() -> dict[str, tuple[int, int]]:
    return {one.what: (one.entries, one.bytes) for one in WORKER.held()}


def open_files() -> set[str]:
    """What this process has open or mapped, by path."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    opened = {os.readlink(link) for link in links if link.is_symlink()}
    mapped = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return opened | {parts[5] for parts in mapped if len(parts) == 6}


def test_a_trial_is_let_go_of_and_the_next_is_equal(
    quick: Quick, make_job: Callable[..., Job]
) -> None:
    """Data set, teacher, placed images and tables are collected; numbers stay."""
    config = quick(method="kd", teacher="resnet8", teacher_cache="float16", epochs=1)
    run = Run(make_job(config, "one"), CPU, keep=False)
    first = run.run_epoch()
    assert run.teacher
    (table,) = run.training.learner.lessons["teacher"].answers.tables.values()  # type: ignore[union-attr]
    path = str(table.path)
    kinds = held()
    for kind in ("data sets", "teachers", "placed images", "teacher tables", "normalisations"):
        assert kind in kinds
    watched = [run.dataset, run.teacher, run.training.stream.feeder.images, table]
    gone = [weakref.ref(one) for one in watched]
    assert path in open_files()
    del run, table, watched
    gc.collect()
    assert all(ref() is not None for ref in gone)
    WORKER.release()
    assert [ref() for ref in gone] == [None] * 4
    assert path not in open_files()
    assert not WORKER.held()
    again = Run(make_job(config, "two"), CPU, keep=False)
    second = again.run_epoch()
    assert second["term_losses"] == first["term_losses"]
    assert again.training.hit_rate == 1.0  # the table is on the disk


def test_a_trial_under_way_keeps_what_it_uses(quick: Quick, make_job: Callable[..., Job]) -> None:
    config = quick(method="kd", teacher="resnet8", teacher_cache="float32", epochs=2)
    undisturbed, run = (Run(make_job(config, name), CPU, keep=False) for name in ("a", "b"))
    undisturbed.run_epoch()
    run.run_epoch()
    WORKER.release()
    assert run.run_epoch()["term_losses"] == undisturbed.run_epoch()["term_losses"]


def test_sizes() -> None:
    """Of tensors exactly; what two kinds share counts once."""
    digits = load_dataset("digits")
    test = digits.read_test()
    tensors = [digits.train.images, digits.train.labels, test.images, test.labels]
    size = sum(one.untyped_storage().nbytes() for one in tensors)
    assert held() == {"data sets": (1, size)}
    place_images(digits.train.images, CPU)
    assert held()["placed images"] == (1, 0)
    network = create_model("resnet8", 10, (1, 8, 8))
    Store[Any]("networks of this test")["one"] = network
    weights = sum(t.nbytes for t in [*network.parameters(), *network.buffers()])
    assert held()["networks of this test"] == (1, weights)
    assert f"data sets 1 ({size / 1e6:.1f} MB)" in str(WORKER)


def folder_of_images(where: Path, shade: int) -> str:
    for split in ("train", "test"):
        for name in ("left", "right"):
            folder = where / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (8, 8), (shade + number, 0, 9)).save(folder / f"{number}.png")
    return f"imagefolder:{where}"


def test_data_sets_in_turn_do_not_pile_up(tmp_path: Path) -> None:
    names = [folder_of_images(tmp_path / str(shade), shade) for shade in range(0, 60, 10)]
    sizes = []
    for _ in range(3):
        for name in names:
            dataset = load_dataset(name)
            place_images(dataset.train.images, CPU)
        sizes.append(sum(one.bytes for one in WORKER.held()))
        assert held()["data sets"][0] == held()["placed images"][0] == 4
    assert sizes[0] == sizes[1] == sizes[2]
    one, other = names[:2]
    first = load_dataset(one)
    for _ in range(5):
        load_dataset(other)
        assert load_dataset(one) is first  # two alternate, and neither is read again


@pytest.mark.slow
def test_compiled_code_is_let_go_of() -> None:
    network = build(Blueprint("resnet8"), 10, (1, 8, 8))
    images = torch.rand(4, 1, 8, 8)
    compiled = CompiledNetwork(network, "aot_eager")
    before = compiled(images).logits
    assert held()["compiled passes"][0] == 1
    assert held()["weights in their places"][1] > 0
    WORKER.release()
    assert not WORKER.held()
    again = CompiledNetwork(network, "aot_eager")(images).logits
    torch.testing.assert_close(again, before, rtol=1e-4, atol=1e-5)


def test_those_asked_for_last_are_kept() -> None:
    made = []

    @kept("squares of this test", entries=2)
    def square(number: int, sign: int = 1) -> int:
        """Of a number."""
        made.append(number)
        return sign * number**2

    assert square.__doc__ == "Of a number."
    assert [square(2), square(3), square(2), square(4), square(2)] == [4, 9, 4, 16, 4]
    assert made == [2, 3, 4]
    assert square(3) == 9
    assert made == [2, 3, 4, 3]
    assert square(2, sign=-1) == -4
    square.cache_clear()
    assert square(3) == 9
    assert made == [2, 3, 4, 3, 2, 3]


def test_what_fails_is_not_kept() -> None:
    @kept("failures of this test", entries=2)
    def fail() -> None:
        raise ValueError("this time")

    for _ in range(2):
        with pytest.raises(ValueError, match="this time"):
            fail()
    assert "failures of this test" not in held()
