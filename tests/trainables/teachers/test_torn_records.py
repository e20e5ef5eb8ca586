"""Records of a teacher table that are cut, mixed or misplaced are not found."""

import struct
from hashlib import shake_256
from pathlib import Path

import pytest
import torch
from small_table import key, one, outputs, record

from trainables.teachers.table import TeacherTable
from trainables.teachers.table_folder import list_tables


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
