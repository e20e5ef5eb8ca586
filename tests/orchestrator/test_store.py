"""The store's promises: no reported row is lost, no file is torn, every row is seen once."""

import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from orchestrator.results import parts
from orchestrator.results.store import SCHEMA_VERSION, SCHEMAS, Store
from trainables.errors import UserError
from trainables.files import Folder

REPOSITORY = Path(__file__).parents[2]


def trial(number: int, **columns) -> dict:
    return {"trial_id": f"s-{number}", "attempt": 1, "status": "completed", **columns}


def epoch(number: int, epoch: int, **columns) -> dict:
    return {"trial_id": f"s-{number}", "attempt": 1, "epoch": epoch, "val_acc": 0.5, **columns}


def ids(store: Store) -> list[str]:
    return store.read("trials")["trial_id"].to_pylist()


@pytest.fixture(params=["local", "remote"])
def results(request, tmp_path):
    if request.param == "local":
        return tmp_path / "results"
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    return Folder(memory, f"bucket-{uuid.uuid4().hex}", is_local=False)


def test_rows_come_back_with_their_types(results):
    store = Store(results, "sweep")
    started = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    store.add_epochs([epoch(0, 1, lr=0.1), epoch(0, 2, lr=0.01)])
    assert store.pending == 2
    assert store.add_trial(
        trial(0, val_acc=0.75, params=123, started_at=started, config='{"method": "kd"}')
    )
    assert store.pending == 0
    table = Store(results, "sweep").read("trials")
    assert table.schema.equals(SCHEMAS["trials"])
    (row,) = table.to_pylist()
    assert row["sweep"] == "sweep"
    assert row["schema_version"] == SCHEMA_VERSION
    assert row["started_at"] == started
    assert (row["val_acc"], row["params"], row["config"]) == (0.75, 123, '{"method": "kd"}')
    assert row["test_acc"] is None
    assert store.read("epochs")["lr"].to_pylist() == [0.1, 0.01]


FROZEN = {
    "proposals": {
        "string": "sweep params attrs state trial_ids",
        "int64": "number",
        "timestamp[us, tz=UTC]": "proposed_at",
    },
    "trials": {
        "string": "sweep trial_id config_key stage status error method dataset teacher student "
        "student_requested compression_kind term_losses host device code_version versions config "
        "term_weights peers precision teacher_precision teacher_note metric metrics runtime "
        "latencies contributions violations start optimizer_groups attribution_maps attributions",
        "int64": "attempt params macs size_bytes teacher_params teacher_macs seed view_seed epochs "
        "peak_memory_bytes schema_version nonzero_params bit_operations activation_bytes "
        "val_empty_maps test_empty_maps",
        "double": "compression_requested compression_params compression_macs compression_bytes "
        "latency_ms train_loss val_loss test_loss val_acc test_acc teacher_test_acc train_seconds "
        "images_per_second teacher_cache_hit_rate peer_val_acc peer_test_acc val_score "
        "test_score teacher_test_score val_localisation val_pointing val_miou val_preservation "
        "val_agreement test_localisation test_pointing test_miou test_preservation test_agreement",
        "timestamp[us, tz=UTC]": "started_at ended_at",
    },
    "epochs": {
        "string": "sweep trial_id",
        "int64": "attempt epoch",
        "double": "lr train_loss val_loss val_acc seconds images_per_second val_score",
    },
}
"""A change here is a new `SCHEMA_VERSION`: add behind these, and do not rename or remove."""


@pytest.mark.parametrize("table", FROZEN)
def test_the_schema_is_frozen(table):
    found = [(field.name, str(field.type)) for field in SCHEMAS[table]]
    assert found == [
        (name, kind) for kind, names in FROZEN[table].items() for name in names.split()
    ]


def test_wrong_columns_and_types_are_refused_at_once(tmp_path):
    store = Store(tmp_path, "sweep")
    with pytest.raises(TypeError, match="no column val_accuracy"):
        store.add_trial(trial(0, val_accuracy=0.5))
    with pytest.raises(TypeError, match="no column loss"):
        store.add_epochs([epoch(0, 1, loss=0.5)])
    with pytest.raises((TypeError, pa.ArrowException)):
        store.add_trial(trial(0, config={"not": "text"}))
    assert store.pending == 0


def test_epochs_wait_for_the_flush_and_no_longer(tmp_path):
    patient, eager = Store(tmp_path, "patient", 3600), Store(tmp_path, "eager", 0)
    for store in (patient, eager):
        store.add_epochs([epoch(0, 1)])
        assert store.maybe_flush()
    assert (patient.pending, eager.pending) == (1, 0)
    assert patient.flush()
    assert Store(tmp_path, "patient").read("epochs").num_rows == 1


def test_row_written_again_counts_once_as_last_written(results):
    store = Store(results, "sweep")
    store.add_trial(trial(0, val_acc=0.1))
    store.add_trial(trial(1, val_acc=0.2))
    store.add_trial(trial(0, val_acc=0.3))
    store.add_trial(trial(0, val_acc=0.4, attempt=2))
    for _ in range(2):
        assert ids(store) == ["s-1", "s-0", "s-0"]
        assert store.read("trials")["val_acc"].to_pylist() == [0.2, 0.3, 0.4]
        store.compact()


def test_compaction_leaves_one_file_and_the_same_rows(results):
    store = Store(results, "sweep")
    for number in range(20):
        store.add_epochs([epoch(number, 1), epoch(number, 2)])
        store.add_trial(trial(number, val_acc=number / 20))
    before = store.read("trials"), store.read("epochs")
    store.compact()
    for table in ("trials", "epochs"):
        (name,) = (store.folder / table).names()
        assert name.startswith("merged-")
    assert (store.read("trials"), store.read("epochs")) == before
    store.add_trial(trial(20))
    store.compact()
    assert ids(store) == [f"s-{number}" for number in range(21)]


def test_compaction_cut_short_doubles_nothing(tmp_path):
    """Killed between the write and the deletes: merged file and parts lie side by side."""
    store = Store(tmp_path, "sweep")
    for number in range(3):
        store.add_trial(trial(number))
    old = {name: (store.folder / "trials").read(name) for name in (store.folder / "trials").names()}
    store.compact()
    for name, data in old.items():
        (store.folder / "trials").write(name, data)
    assert ids(store) == ["s-0", "s-1", "s-2"]
    store.compact()
    assert len((store.folder / "trials").names()) == 1
    assert ids(store) == ["s-0", "s-1", "s-2"]


def test_part_that_outlives_its_compaction_is_still_the_older(tmp_path):
    store = Store(tmp_path, "sweep")
    trials = store.folder / "trials"
    store.add_trial(trial(0, val_acc=0.1))
    (name,) = trials.names()
    data = trials.read(name)
    store.add_trial(trial(0, val_acc=0.2))
    store.compact()
    trials.write(name, data)
    assert store.read("trials")["val_acc"].to_pylist() == [0.2]


@dataclass(frozen=True)
class Meanwhile(Folder):
    """A folder where something happens once, after the first listing or before the first read."""

    after_listing: Callable[[], None] | None = None
    before_read: Callable[[], None] | None = None
    stale: list[str] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)

    def names(self, suffix=""):
        if self.after_listing and "listing" not in self.happened:
            self.happened.append("listing")
            self.after_listing()
            return list(self.stale)
        return super().names(suffix)

    def read(self, name):
        if self.before_read and "read" not in self.happened:
            self.happened.append("read")
            self.before_read()
        return super().read(name)


def reader(store: Store, **events) -> parts.Parts:
    folder = store.folder / "trials"
    watched = Meanwhile(folder.filesystem, folder.path, folder.is_local, **events)
    return parts.Parts(watched, SCHEMAS["trials"], SCHEMA_VERSION, ["sweep", "trial_id", "attempt"])


def test_reader_starts_again_when_its_files_were_compacted(results):
    store = Store(results, "sweep")
    for number in range(3):
        store.add_trial(trial(number))
    table = reader(store, before_read=store.compact).read()
    assert table["trial_id"].to_pylist() == ["s-0", "s-1", "s-2"]


def test_a_row_written_anew_during_a_compaction_outlives_it(results):
    store = Store(results, "sweep")
    for number in range(2):
        store.add_trial(trial(number, val_acc=0.1))

    def anew():
        store.add_trial(trial(0, val_acc=0.9))

    reader(store, before_read=anew).compact()
    found = {row["trial_id"]: row["val_acc"] for row in store.read("trials").to_pylist()}
    assert found == {"s-0": 0.9, "s-1": 0.1}


def test_reader_starts_again_when_a_compaction_overtook_its_listing(results):
    """The listing misses a part that was deleted and the merged file that has its rows."""
    store = Store(results, "sweep")
    folder = store.folder / "trials"
    for number in range(3):
        store.add_trial(trial(number))
    kept = {name: folder.read(name) for name in folder.names()[1:]}

    def compact_up_to_the_first_delete():
        store.compact()
        for name, data in kept.items():
            folder.write(name, data)

    table = reader(store, after_listing=compact_up_to_the_first_delete, stale=list(kept)).read()
    assert sorted(table["trial_id"].to_pylist()) == ["s-0", "s-1", "s-2"]


def test_many_parts_are_compacted_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MAX_PARTS", 8)
    for _ in range(3):  # each time a new process's store, as after resume
        store = Store(tmp_path, "sweep")
        for number in range(7):
            store.add_trial(trial(number))
            assert len((store.folder / "trials").names()) <= 8
    assert sorted(ids(store)) == [f"s-{number}" for number in range(7)]


def test_unwritable_results_are_kept_told_once_and_written_later(tmp_path, caplog):
    store = Store(tmp_path / "results", "sweep", flush_seconds=0)
    blocker = tmp_path / "results"
    blocker.write_bytes(b"")  # a file where the folder should be: refused to root as well
    with pytest.raises(UserError):
        Store(blocker, "sweep")
    with caplog.at_level(logging.INFO, logger="orchestrator.results.store"):
        store.add_epochs([epoch(0, 1)])
        assert not store.add_trial(trial(0))
        assert not store.maybe_flush()
        assert not store.add_trial(trial(1))
    assert store.pending == 3
    (message,) = caplog.messages
    assert "cannot be written" in message
    assert str(tmp_path) in message
    blocker.unlink()
    assert store.maybe_flush()
    assert store.pending == 0
    assert ids(store) == ["s-0", "s-1"]
    assert store.read("epochs").num_rows == 1


def test_trial_never_reaches_the_disk_before_its_epochs(tmp_path):
    store = Store(tmp_path, "sweep")
    store.save_study("")
    (tmp_path / "sweep" / "epochs").write_bytes(b"")  # no epoch can be written below a file
    store.add_epochs([epoch(0, 1)])
    assert not store.add_trial(trial(0))
    assert ids(store) == []
    (tmp_path / "sweep" / "epochs").unlink()
    assert store.flush()
    assert ids(store) == ["s-0"]
    assert store.read("epochs").num_rows == 1


@pytest.mark.parametrize("compacted", [False, True])
def test_a_proposal_that_was_told_takes_its_own_place(results, compacted):
    store = Store(results, "sweep")
    asked = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    for number in (0, 1):
        store.add_proposal(
            {"number": number, "params": f'{{"lr": 0.{number}}}', "proposed_at": asked}
        )
        assert store.flush()
    (first, second) = store.read("proposals").to_pylist()
    assert (first["params"], first["proposed_at"], first["state"]) == ('{"lr": 0.0}', asked, None)
    store.add_proposal({**first, "state": "trained", "trial_ids": '["s-0"]'})
    assert store.pending == 1
    assert store.flush()
    if compacted:
        store.compact()
        assert len((store.folder / "proposals").names()) == 1
    found = Store(results, "sweep").read("proposals").sort_by("number").to_pylist()
    assert found == [{**first, "state": "trained", "trial_ids": '["s-0"]'}, second]
    assert Store.sweeps(results) == ["sweep"]


def test_a_trial_never_reaches_the_disk_before_its_proposal(tmp_path):
    store = Store(tmp_path, "sweep")
    store.save_study("")
    (tmp_path / "sweep" / "proposals").write_bytes(b"")
    store.add_proposal({"number": 0})
    assert not store.add_trial(trial(0))
    assert ids(store) == []
    (tmp_path / "sweep" / "proposals").unlink()
    assert store.flush()
    assert ids(store) == ["s-0"]


FULL_DISK = """
import resource, sys
from orchestrator.results.store import Store
store = Store(sys.argv[1], "sweep")
assert store.add_trial({"trial_id": "s-0", "attempt": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
store.add_epochs([{"trial_id": "s-1", "attempt": 1, "epoch": 1}])
assert not store.add_trial({"trial_id": "s-1", "attempt": 1})
assert store.pending == 2
assert store.read("trials").num_rows == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.flush() and store.pending == 0
"""


def test_disk_full_tears_nothing(tmp_path):
    """The file size limit cuts each write after 1000 bytes, as a full disk does."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, cwd=REPOSITORY)
    store = Store(tmp_path, "sweep")
    assert ids(store) == ["s-0", "s-1"]
    assert store.read("epochs").num_rows == 1
    assert [name for name in os.listdir(tmp_path / "sweep/trials") if name[0] == "."] == []


WRITER = """
import itertools, sys
from orchestrator.results import parts
from orchestrator.results.store import Store
parts.MAX_PARTS = 10
store = Store(sys.argv[1], "sweep")
for number in itertools.count(int(sys.argv[2])):
    store.add_epochs({"trial_id": f"s-{number}", "attempt": 1, "epoch": e} for e in (1, 2, 3))
    assert store.add_trial({"trial_id": f"s-{number}", "attempt": 1})
    print(number, flush=True)
"""


def start_writer(results: Path, first: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(results), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def test_killed_writers_lose_no_acknowledged_row(tmp_path):
    """Killed at any moment, in a write or in a compaction, and started again."""
    acknowledged: list[int] = []
    for life in range(4):
        with start_writer(tmp_path, 1000 * life) as writer:
            for _ in range(23 + 7 * life):
                acknowledged.append(int(writer.stdout.readline()))
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        store = Store(tmp_path, "sweep")
        found = ids(store)
        assert len(found) == len(set(found))
        assert {f"s-{number}" for number in acknowledged} <= set(found)
        epochs = store.read("epochs").to_pandas().groupby("trial_id")["epoch"].apply(list)
        assert all(epochs[name] == [1, 2, 3] for name in found)


def test_reader_beside_a_compacting_writer_sees_each_row_once(tmp_path):
    with start_writer(tmp_path, 0) as writer:
        known = 0
        for _ in range(40):
            known = max(known, int(writer.stdout.readline()) + 1)
            found = ids(Store(tmp_path, "sweep"))
            assert len(found) >= known
            assert found == [f"s-{number}" for number in range(len(found))]
            known = len(found)
        writer.send_signal(signal.SIGKILL)


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


def test_older_files_read_with_nulls(tmp_path):
    store = Store(tmp_path, "sweep")
    store.add_trial(trial(0, val_acc=0.5))
    (path,) = (tmp_path / "sweep/trials").iterdir()
    pq.write_table(pq.read_table(path).drop_columns(["versions", "view_seed"]), path)
    table = store.read("trials")
    assert table.schema.equals(SCHEMAS["trials"])
    assert table.to_pylist()[0]["view_seed"] is None
    assert table.to_pylist()[0]["val_acc"] == 0.5


def test_study_and_sweeps(results):
    assert Store.sweeps(results) == []
    with pytest.raises(UserError, match=r"unknown sweep 'cifar': .* has no sweeps"):
        Store(results, "cifar").read_study()
    Store(results, "cifar10").save_study("dataset: cifar10\nµ: 1\n")
    Store(results, "cifar10").save_study("dataset: cifar10\nµ: 2\n")
    Store(results, "digits").add_trial(trial(0))
    Store(results, "digits").folder.filesystem.create_dir(f"{Store(results, 'x').results.path}/tmp")
    assert Store.sweeps(results) == ["cifar10", "digits"]
    assert Store(results, "cifar10").read_study() == "dataset: cifar10\nµ: 2\n"
    assert Store(results, "cifar10").read("trials").num_rows == 0
    with pytest.raises(UserError, match="did you mean cifar10"):
        Store(results, "cifar").read("trials")
    with pytest.raises(UserError, match=r"digits/study\.yaml is missing"):
        Store(results, "digits").read_study()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_sweep_name_cannot_leave_the_results(tmp_path, name):
    with pytest.raises(UserError, match="sweep name"):
        Store(tmp_path, name)
