"""The teacher table: what is found is what was filled, whatever happens to file and disk."""

import os
import resource
import struct
import subprocess
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import shake_256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.data.dataset import Dataset
from trainables.data.views import ViewPlan
from trainables.errors import UserError
from trainables.teachers.orbit_file import HEADER_BYTES, TableKey
from trainables.teachers.table import TeacherTable
from trainables.teachers.table_folder import (
    TableUnavailable,
    cache_limit,
    clear_tables,
    list_tables,
    table_folder,
)

CIFAR10 = {"images": 50_000, "padding": 4, "flip": True}


@pytest.fixture(autouse=True)
def _default_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDSWEEP_CACHE_GB", raising=False)


def key(**changes: Any) -> TableKey:
    """20 images of 18 views, 5 logits, unless ``changes`` say otherwise."""
    facts: dict[str, Any] = {
        "teacher": "a" * 64,
        "data": "b" * 64,
        "padding": 1,
        "flip": True,
        "what": "logits",
        "precision": "fp32",
        "images": 20,
        "width": 5,
    }
    return TableKey(**(facts | changes))


def every_entry(table: TeacherTable) -> tuple[Tensor, Tensor]:
    numbers = torch.arange(table.key.entries)
    return numbers // table.key.views, numbers % table.key.views


def outputs(rows: int, width: int = 5, seed: int = 0) -> Tensor:
    return 5 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def one(number: int) -> Tensor:
    return torch.tensor([number])


def record(table: TeacherTable, image: int, view: int) -> tuple[int, int]:
    """Offset and size of a record in the file."""
    size = 4 * table.key.record_words
    return HEADER_BYTES + (image * table.key.views + view) * size, size


# What is found.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("width", [1, 5, 10, 128])
def test_found_is_what_was_filled_and_nothing_else(tmp_path: Path, dtype: str, width: int) -> None:
    with TeacherTable.open(tmp_path, key(dtype=dtype, width=width)) as table:
        images, views = every_entry(table)
        values = outputs(len(images), width)
        some = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:100]
        assert table.fill(images[some], views[some], values[some]) == 100
        found_values, found = table.lookup(images, views)
    assert found_values.dtype == torch.float32
    assert found.nonzero().flatten().tolist() == some.sort().values.tolist()
    rounded = values.to(getattr(torch, dtype)).float()
    assert torch.equal(found_values[found], rounded[found])
    assert found_values[~found].isnan().all()


def test_entries_outlive_the_process_that_filled_them(tmp_path: Path) -> None:
    values = outputs(18)
    views = torch.arange(18)
    with TeacherTable.open(tmp_path, key()) as table:
        table.fill(torch.full((18,), 7), views, values)
    with TeacherTable.open(tmp_path, key()) as table:
        again, found = table.lookup(torch.full((18,), 7), views)
        assert found.all()
        assert torch.equal(again, values.half().float())
        assert not table.lookup(torch.full((18,), 8), views)[1].any()


def test_other_processes_see_an_entry_at_once(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as ours, TeacherTable.open(tmp_path, key()) as theirs:
        assert not ours.lookup(one(3), one(4))[1]
        theirs.fill(one(3), one(4), outputs(1))
        values, found = ours.lookup(one(3), one(4))
    assert found
    assert torch.equal(values, outputs(1).half().float())


def test_the_table_answers_like_the_live_teacher(
    tmp_path: Path, digits: Dataset, digits_teacher: Any
) -> None:
    plan = ViewPlan(padding=digits.crop_padding, flip=digits.flip, seed=5)
    teacher = digits_teacher.load()
    facts = {"padding": 1, "flip": False, "images": len(digits.train)}
    order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(2))
    for what, width in (("logits", 10), ("embedding", 64)):
        with TeacherTable.open(tmp_path, key(what=what, width=width, **facts)) as table:
            for indices in order.split(100):
                live = getattr(teacher(plan.images(digits.train.images, 3, indices)), what)
                table.fill(indices, plan.view_ids(3, indices), live)
            for indices in order.flip(0).split(64):
                live = getattr(teacher(plan.images(digits.train.images, 3, indices)), what)
                values, found = table.lookup(indices, plan.view_ids(3, indices))
                assert found.all()
                torch.testing.assert_close(values, live, rtol=2**-10, atol=1e-5)


def test_lookup_writes_to_a_given_tensor(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        table.fill(one(1), one(2), outputs(1))
        out = torch.zeros(2, 5)
        values, found = table.lookup(torch.tensor([1, 1]), torch.tensor([2, 3]), out=out)
    assert values is out
    assert found.tolist() == [True, False]
    assert torch.equal(out[0], outputs(1)[0].half().float())
    assert out[1].isnan().all()


def test_an_empty_batch(tmp_path: Path) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with TeacherTable.open(tmp_path, key()) as table:
        assert table.fill(none, none, torch.zeros(0, 5)) == 0
        values, found = table.lookup(none, none)
    assert values.shape == (0, 5)
    assert found.shape == (0,)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_not_finite_stays_live(tmp_path: Path, dtype: str) -> None:
    values = torch.tensor([[65504.0, -65504.0], [65536.0, 0], [0, -7e4], [torch.nan, 0], [1e39, 0]])
    images = torch.arange(5)
    with TeacherTable.open(tmp_path, key(dtype=dtype, width=2)) as table:
        stored = table.fill(images, images, values)
        found = table.lookup(images, images)[1]
        assert table.fill(images[3:4], images[3:4], values[3:4]) == 0
    beyond = dtype == "float16"
    assert found.tolist() == [True, not beyond, not beyond, False, False]
    assert stored == int(found.sum())


@pytest.mark.parametrize(("image", "view"), [(20, 0), (-1, 0), (0, 18), (0, -1), (1 << 60, 0)])
def test_there_is_no_entry_outside_the_table(tmp_path: Path, image: int, view: int) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        with pytest.raises(IndexError, match="20 images with 18 views"):
            table.lookup(torch.tensor([0, image]), torch.tensor([0, view]))
        with pytest.raises(IndexError, match="20 images with 18 views"):
            table.fill(torch.tensor([0, image]), torch.tensor([0, view]), outputs(2))


def test_wrong_tensors_are_refused(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        with pytest.raises(ValueError, match="int64"):
            table.lookup(torch.tensor([1], dtype=torch.int32), one(1))
        with pytest.raises(ValueError, match=r"\[1, 5\], not \[1, 4\]"):
            table.fill(one(1), one(1), outputs(1, 4))
    table.close()
    with pytest.raises(ValueError, match="closed"):
        table.lookup(one(1), one(1))


# Torn records.


def test_a_mark_is_the_checksum_that_the_format_says(tmp_path: Path) -> None:
    """Files outlive versions: in Python's integers, from the formula."""
    with TeacherTable.open(tmp_path, key()) as table:
        table.fill(one(19), one(17), outputs(1))
        offset, size = record(table, 19, 17)
        data = table.path.read_bytes()[offset : offset + size]
    *words, mark = struct.unpack("<4I", data)
    assert data[:10] == outputs(1).half().numpy().tobytes()
    numbers = struct.unpack("<5Q", shake_256(key().digest.encode()).digest(40))
    products = zip(numbers[2:], words, strict=True)
    total = numbers[0] + numbers[1] * (19 * 18 + 17) + sum(a * word for a, word in products)
    assert mark == (total % 2**64) >> 32


def write_record(table: TeacherTable, image: int, view: int, data: bytes) -> None:
    with open(table.path, "r+b") as file:
        file.seek(record(table, image, view)[0])
        file.write(data)


def read_record(table: TeacherTable, image: int, view: int) -> bytes:
    offset, size = record(table, image, view)
    return table.path.read_bytes()[offset : offset + size]


@pytest.mark.parametrize("width", [5, 100])
def test_a_torn_record_is_not_found(tmp_path: Path, width: int) -> None:
    """Any part new and the rest old, in either order: the mark first is one of the cases."""
    with TeacherTable.open(tmp_path, key(width=width)) as table:
        empty = read_record(table, 2, 3)
        table.fill(one(2), one(3), outputs(1, width, seed=1))
        first = read_record(table, 2, 3)
        table.fill(one(2), one(3), outputs(1, width, seed=2))
        second = read_record(table, 2, 3)
        assert empty == bytes(len(empty))
        for old, new in ((empty, first), (first, second), (second, first), (first, empty)):
            for cut in range(len(new) + 1):
                torn = new[:cut] + old[cut:]
                write_record(table, 2, 3, torn)
                found = bool(table.lookup(one(2), one(3))[1])
                assert found == (torn in (first, second)), (cut, torn)
                assert found == bool(list_tables(tmp_path)[0].count_filled())


def test_two_writers_that_differ_in_the_last_bit_do_not_mix(tmp_path: Path) -> None:
    ours = outputs(1, 100)
    theirs = torch.where(torch.arange(100) % 7 == 0, ours * (1 + 2**-10), ours)
    with TeacherTable.open(tmp_path, key(width=100)) as table:
        table.fill(one(0), one(0), ours)
        first = read_record(table, 0, 0)
        table.fill(one(0), one(0), theirs)
        second = read_record(table, 0, 0)
        for cut in range(0, len(first), 2):
            mixed = first[:cut] + second[cut:]
            write_record(table, 0, 0, mixed)
            assert bool(table.lookup(one(0), one(0))[1]) == (mixed in (first, second))


def test_a_record_of_another_place_or_table_is_not_found(tmp_path: Path) -> None:
    with (
        TeacherTable.open(tmp_path, key()) as table,
        TeacherTable.open(tmp_path, key(teacher="c" * 64)) as other,
    ):
        table.fill(one(2), one(3), outputs(1))
        data = read_record(table, 2, 3)
        write_record(table, 2, 4, data)
        write_record(other, 2, 3, data)
        assert table.lookup(one(2), one(3))[1]
        assert not table.lookup(one(2), one(4))[1]
        assert not other.lookup(one(2), one(3))[1]


# Files.


def test_whatever_decides_the_outputs_decides_the_file() -> None:
    changes: list[dict[str, Any]] = [
        {"teacher": "c" * 64},
        {"data": "c" * 64},
        {"padding": 2},
        {"flip": False},
        {"what": "embedding"},
        {"precision": "bf16"},
        {"images": 21},
        {"width": 6},
        {"dtype": "float32"},
    ]
    changes.append({"padding": 0, "resized_crops": 9})
    assert {name for change in changes for name in change} == set(asdict(key()))
    names = {key(**change).file_name for change in [{}, *changes]}
    assert len(names) == len(changes) + 1
    assert key().file_name == key().file_name


def test_a_table_of_before_resized_crops_is_still_found(tmp_path: Path) -> None:
    """Name and header are what they were, to the byte."""
    facts = {"teacher": "t", "data": "d", "what": "logits", "precision": "fp32", "images": 10}
    old = TableKey(**facts, padding=4, flip=True, width=5)
    assert old.file_name == "logits-67a994833347aae22388b9d4.table"
    TeacherTable.open(tmp_path, old)
    (file,) = tmp_path.rglob("*.table")
    assert b"resized" not in file.read_bytes()[:4096]
    new = TableKey(**facts, padding=0, flip=True, width=5, resized_crops=6)
    assert TeacherTable.open(tmp_path, new).key == new
    assert new.entries == 10 * 12


@pytest.mark.parametrize(
    "change", [{"what": "stages"}, {"dtype": "int8"}, {"width": 0}, {"images": 0}, {"padding": -1}]
)
def test_an_impossible_key_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a table"):
        key(**change)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        table.fill(one(1), one(1), outputs(1))
        path = table.path
    whole = path.read_bytes()
    other = TeacherTable.open(tmp_path, key(teacher="c" * 64))
    other.close()
    damaged = {
        "empty": b"",
        "truncated header": whole[:100],
        "truncated": whole[:-1],
        "too long": whole + b"\0",
        "foreign": os.urandom(len(whole)),
        "zeros": bytes(len(whole)),
        "other version": whole[:8] + b"\7" + whole[9:],
        "renamed": other.path.read_bytes(),
        "padding": whole[:4000] + b"x" + whole[4001:],
    }
    for position in range(0, 500, 3):
        flipped = bytes([whole[position] ^ 4])
        damaged[f"byte {position}"] = whole[:position] + flipped + whole[position + 1 :]
    for name, data in damaged.items():
        path.write_bytes(data)
        with pytest.raises(UserError, match="kdsweep cache clear") as caught:
            TeacherTable.open(tmp_path, key())
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value)
        # A caller that goes on without a table must not go on here.
        assert not isinstance(caught.value, TableUnavailable), name
    path.write_bytes(whole)
    with TeacherTable.open(tmp_path, key()) as table:
        assert table.lookup(one(1), one(1))[1]


def test_of_many_that_create_a_table_one_does(tmp_path: Path) -> None:
    for attempt in range(20):
        this = key(precision=f"p{attempt}")
        with ThreadPoolExecutor(8) as pool:
            tables = list(pool.map(lambda _, k=this: TeacherTable.open(tmp_path, k), range(8)))
        for number, table in enumerate(tables):
            table.fill(one(number), one(0), outputs(1, seed=number))
        for table in tables:
            assert table.lookup(torch.arange(8), torch.zeros(8, dtype=torch.int64))[1].all()
            table.close()
    assert len(os.listdir(tmp_path)) == 20


def test_an_almost_empty_table_takes_little_disk(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key(width=100, **CIFAR10)) as table:
        assert table.path.stat().st_size > 1.6e9
        images = torch.arange(0, 50_000, 5_000)
        table.fill(images, images % 162, outputs(10, 100))
        assert not table.lookup(images, (images + 1) % 162)[1].any()
        os.fsync(table._descriptor)
    (listed,) = list_tables(tmp_path)
    assert listed.disk_bytes < 300_000
    assert listed.count_filled() == 10
    assert listed.key is not None
    assert listed.key.entries == 8_100_000
    assert listed.key.file_bytes == pytest.approx(8_100_000 * 204, rel=1e-5)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a file system in memory")
def test_looking_up_allocates_no_memory_for_what_is_empty() -> None:
    """Reading a hole through a map of such a file would, and would end in SIGBUS at last."""
    folder = Path(f"/dev/shm/kdsweep-test-{os.getpid()}")
    try:
        with TeacherTable.open(folder, key(images=2_000)) as table:
            table.fill(one(1), one(1), outputs(1))
            before = os.stat(table.path).st_blocks
            found = table.lookup(*every_entry(table))[1]
            assert found.nonzero().flatten().tolist() == [19]
            assert os.stat(table.path).st_blocks == before < 64
        assert list_tables(folder)[0].count_filled() == 1
    finally:
        clear_tables(folder)
        folder.rmdir()


def test_listing_and_clearing(tmp_path: Path) -> None:
    assert list_tables(tmp_path / "absent") == []
    names = []
    for number, what in enumerate(("logits", "embedding")):
        with TeacherTable.open(tmp_path, key(what=what)) as table:
            images, views = every_entry(table)
            table.fill(
                images[: 10 * (number + 1)], views[: 10 * (number + 1)], outputs(10 + 10 * number)
            )
            names.append(table.path.name)
        time.sleep(0.02)
    broken = tmp_path / "logits-broken.table"
    broken.write_bytes(b"x")
    (tmp_path / f".{names[0]}.0123").write_bytes(b"left by a killed process")
    (tmp_path / "of somebody else").write_bytes(b"")
    tables = list_tables(tmp_path)
    assert [table.path.name for table in tables] == [broken.name, names[1], names[0]]
    assert [table.count_filled() for table in tables] == [0, 20, 10]
    assert tables[1].key == key(what="embedding")
    assert tables[1].problem is None
    assert tables[0].key is None
    assert str(broken) in str(tables[0].problem)
    assert abs(tables[0].last_used - time.time()) < 60

    with pytest.raises(UserError, match=r"unknown teacher table 'logits-brokn.table'; did you"):
        clear_tables(tmp_path, ["logits-brokn.table"])
    assert [table.path for table in clear_tables(tmp_path, [broken.name])] == [broken]
    with TeacherTable.open(tmp_path, key()) as table:
        assert list_tables(tmp_path)[0].path.name == names[0]
        assert len(clear_tables(tmp_path)) == 2
        # Whoever had it open goes on.
        assert table.lookup(one(0), one(9))[1]
        table.fill(one(0), one(10), outputs(1))
        assert table.lookup(one(0), one(10))[1]
    assert os.listdir(tmp_path) == ["of somebody else"]


# Limits.


def test_a_table_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    size = key().file_bytes
    TeacherTable.open(tmp_path, key(), max_bytes=size).close()
    with pytest.raises(TableUnavailable, match="KDSWEEP_CACHE_GB") as caught:
        TeacherTable.open(tmp_path, key(what="embedding"), max_bytes=size)
    assert "\n" not in str(caught.value)
    assert len(list_tables(tmp_path)) == 1
    TeacherTable.open(tmp_path, key(what="embedding"), max_bytes=2 * size).close()


def test_a_full_table_stays_open_to_all(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        table.fill(*every_entry(table), outputs(table.key.entries))
        os.fsync(table._descriptor)
    TeacherTable.open(tmp_path, key(), max_bytes=1).close()
    with pytest.raises(TableUnavailable, match="is 0"):
        TeacherTable.open(tmp_path, key(), max_bytes=0)


def test_a_table_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableUnavailable, match="GB free"):
        TeacherTable.open(tmp_path, key(images=10**12), max_bytes=10**18)
    assert list_tables(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TableUnavailable, match="KDSWEEP_CACHE"):
        TeacherTable.open(tmp_path / "file", key())


def test_limit_and_folder_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path))
    assert table_folder() == tmp_path / "teacher_outputs"
    assert cache_limit() == 50 * 10**9
    monkeypatch.setenv("KDSWEEP_CACHE_GB", "1e-6")
    assert cache_limit() == 1000
    with pytest.raises(TableUnavailable):
        TeacherTable.open(table_folder(), key())
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("KDSWEEP_CACHE_GB", wrong)
        with pytest.raises(UserError, match=f"KDSWEEP_CACHE_GB is '{wrong}'"):
            cache_limit()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond ``size`` fail for this process, with an error and no signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failing_write_makes_the_table_read_only(tmp_path: Path) -> None:
    values = outputs(18)
    views = torch.arange(18)
    big = key(images=100_000)
    with TeacherTable.open(tmp_path, big) as table:
        table.fill(torch.full((18,), 5), views, values)
        # In the middle of view 9 of image 90,000.
        cut = record(table, 90_000, 9)[0] + 5
        with file_size_limit(cut), pytest.warns(UserWarning, match="table keeps what it has"):
            assert table.fill(torch.full((18,), 90_000), views, values) == 9
        assert not table.writable
        assert table.fill(one(3), one(3), outputs(1)) == 0  # Without a second warning.
        assert (
            table.lookup(torch.full((18,), 90_000), views)[1].tolist() == [True] * 9 + [False] * 9
        )
        assert not table.lookup(one(3), one(3))[1]
        again, found = table.lookup(torch.full((18,), 5), views)
        assert found.all()
        assert torch.equal(again, values.half().float())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; only root can mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    # Lazily: a failed test may still have files open there.
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_filling_and_nothing_else(small_disk: Path) -> None:
    with TeacherTable.open(small_disk, key(images=15_000)) as table:
        images, views = every_entry(table)
        values = outputs(len(images))
        table.fill(images[:1000], views[:1000], values[:1000])
        filler = os.open(small_disk / "filler", os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(filler, 0, os.statvfs(small_disk).f_bavail * 4096 - 40_000)
        os.close(filler)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for batch in torch.arange(1000, len(images)).split(64):
                table.fill(images[batch], views[batch], values[batch])
        assert ["No space left on device" in str(warning.message) for warning in warned] == [True]
        again, found = table.lookup(images, views)
    assert 1000 < int(found.sum()) < 5000
    assert torch.equal(again[found], values.half().float()[found])
    with pytest.raises(TableUnavailable, match="GB free beyond a reserve"):
        TeacherTable.open(small_disk, replace(key(), images=14_000))
