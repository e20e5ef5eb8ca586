"""Files of teacher tables: their names, their damage, their size on disk, their listing."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from small_table import every_entry, key, one, outputs

from trainables.errors import UserError
from trainables.teachers.orbit_file import TableKey
from trainables.teachers.table import TeacherTable
from trainables.teachers.table_folder import TableUnavailable, clear_tables, list_tables

CIFAR10 = {"images": 50_000, "padding": 4, "flip": True}


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
