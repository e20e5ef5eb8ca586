"""Some processes fill one teacher table and are killed: nothing false is ever found.

`make soak` kills more of them, more often.
Run as a program, this file is one of the processes.
"""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.data.dataset import Dataset, Images
from trainables.data.sources import load_dataset
from trainables.data.views import ViewPlan, crop_flip
from trainables.teachers.orbit_file import TableKey
from trainables.teachers.table import TeacherTable
from trainables.teachers.teacher import Teacher, load_teacher

# For which each process fills in each round.
SECONDS = 0.5
IMAGES = 400
WIDE = 100_000


def few(digits: Dataset) -> Dataset:
    """Some images: every process asks the teacher about all their views before it begins."""
    train = Images(digits.train.images[:IMAGES], digits.train.labels[:IMAGES])
    return dataclasses.replace(digits, train=train)


def teacher_key(teacher: Teacher, digits: Dataset, number: int) -> TableKey:
    """A table per round."""
    return TableKey(
        teacher=teacher.card.fingerprint,
        data=digits.fingerprint,
        padding=digits.crop_padding,
        flip=digits.flip,
        what="logits",
        precision=f"fp32, round {number}",
        images=len(digits.train),
        width=digits.num_classes,
    )


def live_outputs(teacher: Teacher, digits: Dataset, batch: int) -> Tensor:
    """The teacher's logits on every view of every image, ``[images * views, classes]``."""
    plan = ViewPlan(padding=digits.crop_padding, flip=digits.flip, seed=0)
    views = plan.number_of_views
    numbers = torch.arange(len(digits.train) * views).split(batch)
    pixels = digits.train.images
    return torch.cat(
        [
            teacher(
                crop_flip(pixels[part // views], plan.from_id(part % views), plan.padding)
            ).logits
            for part in numbers
        ]
    )


def fill_for_ever(results: str, file: str, seed: str, folder: str) -> None:
    """Fills the table of the round from a live teacher, in scattered and in long writes."""
    digits = few(load_dataset("digits"))
    teacher = load_teacher(results, file, "cpu")
    # Another batch size in each process: the last bits may differ, as between real trials.
    live = live_outputs(teacher, digits, 40 + int(seed))
    generator = torch.Generator().manual_seed(int(seed))
    print("ready", flush=True)
    number = 0
    while True:
        while number == (number := int(Path(folder, "round").read_text())):
            time.sleep(0.001)
        end = time.monotonic() + SECONDS
        with TeacherTable.open(Path(folder), teacher_key(teacher, digits, number)) as table:
            while time.monotonic() < end:
                start = int(torch.randint(0, table.key.entries - 40, (), generator=generator))
                scattered = torch.randint(0, table.key.entries, (64,), generator=generator)
                for entries in (scattered, torch.arange(start, start + 40)):
                    table.fill(entries // table.key.views, entries % table.key.views, live[entries])


def wide_key() -> TableKey:
    """Records of 400 KB, which take long to copy."""
    return TableKey(
        teacher="t",
        data="d",
        padding=0,
        flip=False,
        what="logits",
        precision="fp32",
        images=1,
        width=WIDE,
        dtype="float32",
    )


def rewrite_for_ever(value: str, folder: str) -> None:
    """Fills one entry with ``value``, again and again."""
    entry = torch.zeros(1, dtype=torch.int64)
    with TeacherTable.open(Path(folder), wide_key()) as table:
        print("ready", flush=True)
        while True:
            table.fill(entry, entry, torch.full((1, WIDE), float(value)))


PROGRAMS: dict[str, Callable[..., None]] = {"fill": fill_for_ever, "rewrite": rewrite_for_ever}


@contextmanager
def starter() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts this file as a program; all that still run are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, *map(str, arguments)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_until_ready(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"


def write_round(folder: Path, number: int) -> None:
    (folder / "next").write_text(str(number))
    os.replace(folder / "next", folder / "round")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "rounds"), [(3, 1), pytest.param(8, 20, marks=pytest.mark.soak)])
def test_killed_processes_leave_only_what_the_live_teacher_gives(
    tmp_path: Path, digits: Dataset, digits_teacher: Any, count: int, rounds: int
) -> None:
    digits, teacher = few(digits), digits_teacher.load()
    live = live_outputs(teacher, digits, 500)
    doomed = count // 3
    chance = random.Random(7)
    write_round(tmp_path, 0)

    def check(table: TeacherTable) -> int:
        entries = torch.arange(table.key.entries)
        values, found = table.lookup(entries // table.key.views, entries % table.key.views)
        torch.testing.assert_close(values[found], live[found], rtol=2**-10, atol=1e-5)
        return int(found.sum())

    seen = []
    with starter() as start:

        def filler() -> subprocess.Popen[str]:
            return start("fill", digits_teacher.results, digits_teacher.file, next(seeds), tmp_path)

        seeds = iter(range(10**6))
        processes = [filler() for _ in range(count)]
        wait_until_ready(processes)
        for number in range(1, rounds + 1):
            write_round(tmp_path, number)
            end = time.monotonic() + chance.uniform(0, 0.05)
            with TeacherTable.open(tmp_path, teacher_key(teacher, digits, number)) as table:
                while time.monotonic() < end:
                    check(table)
                chance.shuffle(processes)
                for process in processes[:doomed]:
                    process.send_signal(signal.SIGKILL)
                    assert process.wait() == -signal.SIGKILL
                assert all(process.poll() is None for process in processes[doomed:])
                seen.append(check(table))
                end = time.monotonic() + 2 * SECONDS
                while time.monotonic() < end:
                    check(table)
            if number < rounds:
                processes[:doomed] = [filler() for _ in range(doomed)]
                wait_until_ready(processes[:doomed])
    for number in range(1, rounds + 1):
        with TeacherTable.open(tmp_path, teacher_key(teacher, digits, number)) as table:
            # All but what a process was killed on while it wrote it once more.
            assert check(table) > 0.9 * table.key.entries
    print(f"filled when {doomed} of {count} were killed, of {len(live)}: {seen}")


@pytest.mark.slow
def test_a_reader_never_gets_a_mix_of_two_writers(tmp_path: Path) -> None:
    entry = torch.zeros(1, dtype=torch.int64)
    counts = {1.0: 0, 2.0: 0}
    torn = 0
    with starter() as start, TeacherTable.open(tmp_path, wide_key()) as table:
        wait_until_ready([start("rewrite", value, tmp_path) for value in counts])
        end = time.monotonic() + 60
        # Until each was found often, and a torn record shows that reading and writing met.
        while min(*counts.values(), 30 * torn) < 30 and time.monotonic() < end:
            values, found = table.lookup(entry, entry)
            if found:
                assert (values == values[0, 0]).all()
                counts[float(values[0, 0])] += 1
            else:
                torn += 1
    print(f"found {counts}, torn {torn}")
    assert min(*counts.values(), torn) > 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
