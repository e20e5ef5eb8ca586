"""Damaged parts are refused by name, and never pass as data."""

import os
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs
from short_rows import epoch, trial

from orchestrator.results.store import Store
from trainables.errors import UserError
from trainables.files import Folder


@pytest.mark.parametrize("left", ["empty", "cut", "beginning", "hidden"])
def test_what_an_interrupted_upload_left_in_a_bucket_is_no_damage(left, caplog):
    memory = MemoryFileSystem()
    bucket = Folder(fs.PyFileSystem(fs.FSSpecHandler(memory)), f"bucket-{uuid.uuid4().hex}", False)
    store = Store(bucket, "sweep")
    for number in range(2):
        store.add_trial(trial(number))
    rows = store.read("trials")
    folder = bucket / "sweep" / "trials"
    data = folder.read(folder.names()[0])
    name = ".part-9-1-1.parquet.8a1f" if left == "hidden" else "part-9-1-1.parquet"
    cases = {"empty": b"", "cut": data[:-20], "beginning": data[:3], "hidden": data[:-20]}
    memory.pipe_file(f"/{folder.path}/{name}", cases[left])
    assert store.read("trials") == rows
    store.compact()
    assert store.read("trials") == rows
    assert memory.exists(f"/{folder.path}/{name}"), "it may be on its way still"
    assert (name in caplog.text) == (left in ("cut", "beginning"))
    # Whoever was interrupted tries again under the same name.
    memory.pipe_file(f"/{folder.path}/{name.partition('.8a1f')[0].lstrip('.')}", data)
    assert store.read("trials").num_rows == rows.num_rows


@pytest.mark.parametrize("damage", ["text", "flipped", "foreign"])
def test_damage_in_a_bucket_is_refused_by_name(damage):
    memory = MemoryFileSystem()
    bucket = Folder(fs.PyFileSystem(fs.FSSpecHandler(memory)), f"bucket-{uuid.uuid4().hex}", False)
    store = Store(bucket, "sweep")
    store.add_trial(trial(0, config="abc" * 100))
    folder = bucket / "sweep" / "trials"
    (name,) = folder.names()
    data = folder.read(name)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    flipped = data[:60] + bytes([data[60] ^ 0xFF]) + data[61:]
    cases = {"text": b"hello", "flipped": flipped, "foreign": sink.getvalue().to_pybytes()}
    folder.write(name, cases[damage])
    with pytest.raises(UserError, match=name):
        store.read("trials")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flipped", "foreign", "newer"])
def test_damaged_part_is_refused_by_name(tmp_path, damage):
    store = Store(tmp_path, "sweep")
    for number in range(2):
        store.add_trial(trial(number, config="abc" * 100))
    name = sorted(os.listdir(tmp_path / "sweep/trials"))[1]
    path = tmp_path / "sweep/trials" / name
    data = path.read_bytes()
    if damage == "foreign":
        pq.write_table(pa.table({"x": [1]}), path)
    elif damage == "newer":
        metadata = {b"kdsweep_schema_version": b"99"}
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    else:
        flipped = data[:60] + bytes([data[60] ^ 0xFF]) + data[61:]
        cases = {"empty": b"", "cut": data[:-20], "text": b"hello", "flipped": flipped}
        path.write_bytes(cases[damage])
    with pytest.raises(UserError, match=name) as caught:
        store.read("trials")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=name):
        store.compact()
    assert len(os.listdir(tmp_path / "sweep/trials")) == 2


def test_damage_in_the_data_never_passes_as_data(tmp_path):
    """Any one byte of the data pages may flip: refused, or the very same rows."""
    store = Store(tmp_path, "sweep")
    store.add_epochs([epoch(0, number, lr=number / 7, seconds=1.5) for number in range(50)])
    store.flush()
    (path,) = (tmp_path / "sweep/epochs").iterdir()
    data, rows = path.read_bytes(), store.read("epochs")
    footer = int.from_bytes(data[-8:-4], "little") + 8
    refused = 0
    for position in range(0, len(data) - footer, 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            assert store.read("epochs") == rows
        except UserError:
            refused += 1
    assert refused > 100
