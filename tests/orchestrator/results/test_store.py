"""The store's promises: rows come back as they were, in their order, and none is lost."""

import logging
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from short_rows import epoch, ids, trial

from orchestrator.results.store import SCHEMA_VERSION, SCHEMAS, Store
from trainables.errors import UserError


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
        "latencies contributions violations start optimizer_groups attribution_maps attributions "
        "teachers",
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
