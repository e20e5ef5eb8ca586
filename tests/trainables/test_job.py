"""An attempt at a trial: its rows, its files, and going on in another process."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from orchestrator.results.store import Store
from trainables.columns import COLUMNS, TrialRow
from trainables.compression.measure import count_params
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import DeviceError, OutOfMemoryError, UserError
from trainables.experiment import config_key
from trainables.files import Folder
from trainables.job import PROGRESS, STUDENT, Job, Run
from trainables.models.weights import read_network
from trainables.progress_file import pack_progress
from trainables.teachers.teacher import Teacher
from trainables.training import Training

CPU = torch.device("cpu")
EPOCHS = COLUMNS["epochs"]
CLOCK = {
    "trial_id",
    "train_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "latency_ms",
    "started_at",
    "ended_at",
}

Quick = Callable[..., TrialConfig]
MakeJob = Callable[..., Job]


def finish(run: Run) -> dict[str, Any]:
    while not run.finished:
        run.run_epoch()
    return run.row("completed")


def steady(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what the clock and the trial's name decide."""
    return {key: value for key, value in row.items() if key not in CLOCK}


def weights(job: Job) -> dict[str, torch.Tensor]:
    return read_network(job.folder, STUDENT)[1].state_dict()


def assert_equal_weights(first: Job, second: Job) -> None:
    ours, theirs = weights(first), weights(second)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


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


@pytest.mark.parametrize(("seconds", "written"), [(0.0, True), (3600.0, False)])
def test_checkpoints_come_when_it_is_time(
    quick: Quick, make_job: MakeJob, seconds: float, written: bool
) -> None:
    job = make_job(quick(), f"timed-{seconds}", checkpoint_seconds=seconds)
    Run(job, CPU).run_epoch()
    assert job.folder.exists(PROGRESS) == written


GO_ON = """
import json, sys, torch
torch.set_num_threads(1)
from trainables.job import Job, Run
run = Run(Job(**json.loads(sys.argv[1])), torch.device("cpu"))
begun = run.training.epoch
while not run.finished:
    run.run_epoch()
row = run.row("completed")
print(json.dumps([begun, len(run.rows), row["val_acc"], row["test_acc"], row["test_loss"]]))
"""


def test_a_fresh_process_goes_on_to_the_very_same_student(quick: Quick, make_job: MakeJob) -> None:
    config = quick(method="kd+at", teacher="resnet8", momentum=0.9, schedule="cosine")
    undisturbed = make_job(config, "undisturbed")
    row = finish(Run(undisturbed, CPU))
    interrupted = make_job(config, "interrupted")
    Run(interrupted, CPU).run_epoch()

    command = [sys.executable, "-c", GO_ON, json.dumps(interrupted.to_dict())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [1, 3, row["val_acc"], row["test_acc"], row["test_loss"]]
    assert json.loads(done.stdout) == expected
    assert_equal_weights(undisturbed, interrupted)


def test_a_fresh_run_goes_on_with_all_rows(quick: Quick, make_job: MakeJob) -> None:
    config = quick(student="mobilenetv2-minus15_x0.25", train_fraction=0.1)  # dropout
    undisturbed, interrupted = make_job(config, "calm"), make_job(config, "stormy")
    calm = Run(undisturbed, CPU)
    row = finish(calm)
    for _ in range(2):
        Run(interrupted, CPU).run_epoch()
    last = Run(interrupted, CPU)
    assert [epoch["epoch"] for epoch in last.rows] == [1, 2]
    assert steady(finish(last)) == steady(row)
    assert [epoch["val_loss"] for epoch in last.rows] == [epoch["val_loss"] for epoch in calm.rows]
    assert_equal_weights(undisturbed, interrupted)


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


def old(progress: bytes) -> bytes:
    """As it was before progress said whose it is."""
    return progress.partition(b"\n")[2]


def foreign(progress: bytes) -> bytes:
    """Whole, of this config and format, and not what a training is."""
    key = json.loads(progress.partition(b"\n")[0])["config_key"]
    return pack_progress({"training": {"epoch": 1}, "rows": []}, key)


def half_foreign(progress: bytes) -> bytes:
    """Whole, and its student fits: what fails comes after that."""
    head, _, body = progress.partition(b"\n")
    state = torch.load(io.BytesIO(body), weights_only=True)
    del state["training"]["learner"]["optimizers"]
    return pack_progress(state, json.loads(head)["config_key"])


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda progress: progress[:1000], "is damaged"),
    "empty": (lambda progress: b"", "is damaged, or of another version"),
    "flipped": (lambda p: p[:5000] + bytes([p[5000] ^ 1]) + p[5001:], "is damaged"),
    "text": (lambda progress: b"hello", "is damaged, or of another version"),
    "old": (old, "is damaged, or of another version"),
    "later": (
        lambda p: p.replace(b'"format": 5', b'"format": 6', 1),
        r"is of another version \(format 6, not 5\)",
    ),
    "foreign": (foreign, "cannot be restored"),
    "half foreign": (half_foreign, "cannot be restored"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_progress_that_cannot_be_used_costs_its_epochs_and_nothing_else(
    quick: Quick, make_job: MakeJob, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = quick(epochs=2)
    spoil, reason = DAMAGES[damage]
    calm, job = make_job(config, f"calm-{damage}"), make_job(config, f"spoilt-{damage}")
    row = finish(Run(calm, CPU))
    Run(job, CPU).run_epoch()
    job.folder.write(PROGRESS, spoil(job.folder.read(PROGRESS)))
    run = Run(job, CPU)
    assert (run.training.epoch, run.rows) == (0, [])
    assert run.note is not None
    assert re.search(
        rf"spoilt-{damage}/{PROGRESS} {reason}.*: the training starts afresh", run.note
    )
    assert run.note in caplog.text
    assert steady(finish(run)) == steady(row)
    assert_equal_weights(calm, job)


def test_progress_of_another_config_is_left(quick: Quick, make_job: MakeJob) -> None:
    """As where a second confirmation has fewer seeds than the one that was killed."""
    config = quick()
    Run(make_job(config, "number-5"), CPU).run_epoch()
    other = Run(make_job(config.replace(lr=0.05), "number-5"), CPU)
    assert other.training.epoch == 0
    assert other.note is not None
    assert "is of another config" in other.note
    fresh = Run(make_job(config.replace(lr=0.05), "number-6"), CPU)
    assert steady(finish(other)) == steady(finish(fresh))
    assert fresh.note is None


def test_a_store_that_does_not_answer_costs_no_trial(
    quick: Quick, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(quick(epochs=2), "unanswered")
    Run(job, CPU).run_epoch()

    def unanswered(folder: Folder, name: str) -> bytes:
        raise OSError("the bucket does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", unanswered)
        run = Run(job, CPU)
    assert run.training.epoch == 0
    assert run.note is not None
    assert Run(job, CPU).training.epoch == 1, "what is there is left there"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), DeviceError),
    ],
)
def test_a_full_or_lost_device_says_nothing_about_the_progress(
    quick: Quick,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    told: type[Exception],
) -> None:
    job = make_job(quick(epochs=2), f"lost-{told.__name__}")
    Run(job, CPU).run_epoch()

    def lost(training: Training, state: object) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(Training, "load_state_dict", lost)
        with pytest.raises(told):
            Run(job, CPU)
    assert Run(job, CPU).training.epoch == 1


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


def test_a_fresh_run_goes_on_with_the_peers(quick: Quick, make_job: MakeJob) -> None:
    config = quick(method="dml+mixup", momentum=0.9)
    calm = finish(Run(make_job(config, "calm-cohort"), CPU))
    Run(make_job(config, "stormy-cohort"), CPU).run_epoch()
    assert steady(finish(Run(make_job(config, "stormy-cohort"), CPU))) == steady(calm)
