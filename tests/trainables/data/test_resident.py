"""Wherever a set of images is, its batches are the same, come in order, and errors arrive."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainables.data import resident
from trainables.data.dataset import Dataset
from trainables.data.resident import AHEAD, place_images
from trainables.data.views import ViewPlan

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def random_images(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 9, 11), dtype=torch.uint8, generator=draw)


@pytest.fixture
def mapped(tmp_path: Path, load_again: Callable[..., Dataset]) -> Tensor:
    """Forty images in a memory-mapped file of the cache."""
    for i in range(40):
        folder = tmp_path / "pets" / ("train" if i else "test") / "cat"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    load_again(f"imagefolder:{tmp_path / 'pets'}")
    return load_again(f"imagefolder:{tmp_path / 'pets'}").train.images


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("images")]


@pytest.mark.parametrize("where", ["auto", "device", "host"])
def test_batches_are_the_images_wherever_they_are(mapped: Tensor, where: str) -> None:
    for images in (mapped, random_images(39)):
        placed = place_images(images, CPU, where)
        assert len(placed) == 39
        plan = torch.randperm(39, generator=torch.Generator().manual_seed(0)).split(4)
        assert len(plan) > 2 * AHEAD
        found = list(placed.batches(plan, plan))
        assert [len(batch) for batch in found] == [4] * 9 + [3]
        for batch, indices in zip(found, plan, strict=True):
            assert batch.dtype == torch.uint8
            assert torch.equal(batch, images[indices])
            assert torch.equal(placed.batch(indices, indices), images[indices])
        assert not list(placed.batches([], []))
        repeated = torch.tensor([5, 5, 0])
        assert torch.equal(placed.batch(repeated, repeated), images[repeated])
    assert not threads()


def test_on_a_cpu_the_set_is_not_copied() -> None:
    images = random_images(5)
    assert place_images(images, CPU).images is images
    assert place_images(images, CPU, "host").images is images


def test_batches_of_the_host_are_gathered_ahead() -> None:
    images = random_images(60)
    before = images.clone()
    plan = torch.arange(60).split(6)
    with closing(place_images(images, CPU, "host").batches(plan, plan)) as batches:
        found = [next(batches)]
        time.sleep(0.5)  # long enough to gather what is to be gathered by now
        images.zero_()
        found += batches
    for number, (batch, indices) in enumerate(zip(found, plan, strict=True)):
        expected = before if number <= AHEAD else images
        assert torch.equal(batch, expected[indices]), number


def test_an_error_while_gathering_reaches_the_caller() -> None:
    placed = place_images(random_images(10), CPU, "host")
    plan = [torch.tensor([1, 2]), torch.tensor([3, 10]), torch.tensor([4])]
    batches = placed.batches(plan, plan)
    assert len(next(batches)) == 2
    with pytest.raises(IndexError):
        next(batches)
    assert not threads()


def test_a_loop_that_is_left_leaves_no_thread() -> None:
    placed = place_images(random_images(60), CPU, "host")
    plan = torch.arange(60).split(2)
    for _ in placed.batches(plan, plan):
        assert threads()
        break
    assert not threads()

    def broken() -> None:
        for _ in placed.batches(plan, plan):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        broken()
    assert not threads()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("where", ["device", "host"])
def test_batches_arrive_on_the_gpu_and_nothing_waits(mapped: Tensor, where: str) -> None:
    gpu = torch.device("cuda")
    placed = place_images(mapped, gpu, where)
    assert placed.images.is_cuda == (where == "device")
    plan = torch.randperm(39).split(4)
    there = [indices.to(gpu) for indices in plan]
    views = ViewPlan(padding=2, flip=True, seed=0)
    offsets = [views.offsets(0, indices) for indices in there]
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = placed.batches(plan, there)
        found = [views.show(*both) for both in zip(batches, offsets, strict=True)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for batch, indices in zip(found, plan, strict=True):
        assert torch.equal(batch.cpu(), views.images(mapped, 0, indices))


@pytest.mark.gpu
@needs_gpu
def test_a_set_that_would_fill_the_gpu_stays_on_the_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images, gpu = random_images(50), torch.device("cuda")
    assert place_images(images, gpu).images.is_cuda
    monkeypatch.setattr(resident, "SHARE", 1e-9)
    with caplog.at_level(logging.WARNING):
        placed = place_images(images, gpu)
    assert placed.images is images
    assert len(caplog.records) == 1
    indices = torch.tensor([3, 1])
    assert torch.equal(placed.batch(indices, indices.to(gpu)).cpu(), images[indices])
