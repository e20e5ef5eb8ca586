"""A teacher table where there is no room: the user's limit, a full disk, a read-only folder."""

import os
import resource
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_table import every_entry, key, one, outputs, record

from trainables.errors import UserError
from trainables.teachers.table import TeacherTable
from trainables.teachers.table_folder import (
    TableUnavailable,
    cache_limit,
    list_tables,
    table_folder,
)


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
