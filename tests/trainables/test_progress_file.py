"""Going on from a trial's progress, in another process or from a damaged file."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from whole_runs import assert_equal_weights, finish, steady

from trainables.config import TrialConfig
from trainables.errors import DeviceError, OutOfMemoryError
from trainables.files import Folder
from trainables.job import PROGRESS, Job, Run
from trainables.progress_file import pack_progress
from trainables.training import Training

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]
MakeJob = Callable[..., Job]


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


def test_a_fresh_run_goes_on_with_the_peers(quick: Quick, make_job: MakeJob) -> None:
    config = quick(method="dml+mixup", momentum=0.9)
    calm = finish(Run(make_job(config, "calm-cohort"), CPU))
    Run(make_job(config, "stormy-cohort"), CPU).run_epoch()
    assert steady(finish(Run(make_job(config, "stormy-cohort"), CPU))) == steady(calm)
