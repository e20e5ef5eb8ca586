"""An attempt at a trial: its rows and its files."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from whole_runs import finish, steady

from orchestrator.results.store import Store
from trainables.columns import COLUMNS, TrialRow
from trainables.compression.measure import count_params
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.experiment import config_key
from trainables.job import STUDENT, Job, Run
from trainables.models.weights import read_network
from trainables.teachers.teacher import Teacher
from trainables.training import Training

CPU = torch.device("cpu")
EPOCHS = COLUMNS["epochs"]
Quick = Callable[..., TrialConfig]
MakeJob = Callable[..., Job]


def test_a_whole_run(
    digits: Dataset, quick: Quick, make_job: MakeJob, digits_teacher, tmp_path
) -> None:
    config = quick(method="kd", teacher="resnet8", factor=8, student="wrn", temperature=3)
    job = make_job(config, "whole")
    row = finish(Run(job, CPU))
    assert row["status"] == "completed"
    assert row["epochs"] == 3
    assert "error" not in row
    assert 0 < row["test_acc"] <= 1
    assert row["latency_ms"] > 0
    assert row["teacher"] == "resnet8"
    assert row["teacher_test_acc"] == digits_teacher.card.test_acc
    assert row["student"].startswith("wrn_")
    assert row["student_requested"] == "wrn"
    assert row["compression_kind"] == "factor"
    assert row["compression_requested"] == 8
    assert row["compression_params"] == digits_teacher.card.params / row["params"]
    assert 4 < row["compression_params"] < 16
    assert row["compression_macs"] == digits_teacher.card.macs / row["macs"]
    assert set(json.loads(row["term_losses"])) == {"ce", "kd"}
    assert row["started_at"] < row["ended_at"]
    assert TrialConfig.from_mapping(json.loads(row["config"])) == config
    assert row["config_key"] == config_key(
        config,
        student=row["student"],
        data_fingerprint=digits.fingerprint,
        teacher_fingerprint=digits_teacher.card.fingerprint,
    )
    assert Store(str(tmp_path), "s").add_trial(row), "every column is one of the store's"


def test_the_test_set_is_read_once_after_the_last_epoch(
    quick: Quick, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read_test = Dataset.read_test
    monkeypatch.setattr(Dataset, "read_test", lambda dataset: reads.append(1) or read_test(dataset))
    run = Run(make_job(quick(method="kd", teacher="resnet8"), "spied"), CPU)
    while not run.finished:
        run.run_epoch()
        assert "test_acc" not in run.row("stopped")
    assert reads == []
    assert "test_acc" in run.row("completed")
    assert reads == [1]


def test_the_students_file_gives_the_same_network(
    digits: Dataset, quick: Quick, make_job: MakeJob
) -> None:
    job = make_job(quick(), "kept")
    run = Run(job, CPU)
    row = finish(run)
    card, network = read_network(job.folder, STUDENT)
    assert Teacher(network, card, CPU).score(digits.read_test()).acc == row["test_acc"]
    assert card.test_acc == row["test_acc"]
    assert card.model == row["student"]
    assert card.params == row["params"]
    assert json.loads(card.origin) == run.config.to_dict()


def test_nothing_is_written_where_nothing_is_kept(quick: Quick, make_job: MakeJob) -> None:
    job = make_job(quick(), "unkept")
    finish(Run(job, CPU, keep=False))
    assert job.folder.names() == []


def test_same_config_same_row_other_seed_other_row(quick: Quick, make_job: MakeJob) -> None:
    config = quick(method="kd+at", teacher="resnet8", epochs=2)
    rows = [finish(Run(make_job(config, name), CPU)) for name in ("one", "two")]
    assert steady(rows[0]) == steady(rows[1])
    groups = json.loads(rows[0]["optimizer_groups"])
    assert groups["sgd"] == {"parameters": "all", "values": rows[0]["params"]}
    other = finish(Run(make_job(config.replace(seed=1), "three"), CPU))
    assert other["test_loss"] != rows[0]["test_loss"]
    assert other["config_key"] != rows[0]["config_key"]


def test_a_teacher_that_is_not_there_is_named(quick: Quick, make_job: MakeJob) -> None:
    config = quick(method="kd", teacher="resnet8")
    with pytest.raises(UserError, match="unknown teacher 'nobody'; known: resnet8-"):
        Run(make_job(config, "lost", teacher="nobody"), CPU)


def test_peers_stand_in_the_row(digits: Dataset, quick: Quick, make_job: MakeJob, tmp_path) -> None:
    config = quick(method="dml", peers=2, peer="resnet8", epochs=2)
    job = make_job(config, "cohort")
    assert job.teacher is None
    run = Run(job, CPU)
    row = finish(run)
    peers = json.loads(row["peers"])
    assert [peer["name"] for peer in peers] == ["dml.1", "dml.2"]
    for peer in peers:
        learner = run.training.learner
        network = learner.networks[peer["name"]]
        assert peer["params"] == count_params(network) != row["params"]
        assert peer["test_acc"] == learner.score(digits.read_test(), peer["name"]).acc
        assert peer["val_acc"] == run.training.val_score(peer["name"]).acc
    assert row["peer_test_acc"] == pytest.approx(sum(p["test_acc"] for p in peers) / 2)
    assert row["peer_val_acc"] == pytest.approx(sum(p["val_acc"] for p in peers) / 2)
    assert Store(str(tmp_path), "s").add_trial(row), "every column is one of the store's"

    card, network = read_network(job.folder, STUDENT)
    assert card.model == row["student"] == "wrn_10_0.5"
    assert card.params == row["params"]
    assert Teacher(network, card, CPU).score(digits.read_test()).acc == row["test_acc"]


def test_a_stray_column_is_refused_before_the_first_epoch(
    quick: Quick, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[Training] = []
    monkeypatch.setattr(Training, "run_epoch", epochs.append)

    def stray(row: TrialRow, *facts: object) -> TrialRow:
        return replace(row, stray=1)  # type: ignore[call-arg]

    monkeypatch.setattr("trainables.job.with_facts", stray)
    for keep in (True, False):
        with pytest.raises(TypeError, match="unexpected keyword argument 'stray'"):
            Run(make_job(quick(), "stray"), CPU, keep=keep)
    assert epochs == []


def test_rows_of_epochs_are_the_tables(quick: Quick, make_job: MakeJob, tmp_path) -> None:
    run = Run(make_job(quick(epochs=2), "epochs"), CPU)
    said = [run.run_epoch() for _ in range(2)]
    rows = run.epoch_rows(0)
    assert run.epoch_rows(1) == rows[1:]
    for row, epoch in zip(rows, said, strict=True):
        assert set(row) == set(EPOCHS)
        assert (row["trial_id"], row["attempt"]) == ("epochs", 1)
        assert {key: row[key] for key in epoch if key in EPOCHS}.items() <= epoch.items()
    store = Store(str(tmp_path), "s")
    store.add_epochs(rows)
    assert store.flush()


def test_no_peers_no_columns(quick: Quick, make_job: MakeJob) -> None:
    row = finish(Run(make_job(quick(epochs=1), "loner"), CPU))
    assert [key for key in row if "peer" in key] == []
