"""Two processes that want one teacher, and what a killed one leaves behind."""

import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables import teacher_training as train
from trainables.config import TrialConfig
from trainables.errors import Diverged, UserError
from trainables.files import Folder
from trainables.job import PROGRESS, STUDENT
from trainables.recipes import recipe
from trainables.teacher_training import TeacherTraining, teacher_lock, train_teacher
from trainables.teachers.teacher import find_teacher, teacher_folder

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]

WAIT = """
import json, sys, torch
torch.set_num_threads(1)
from trainables.config import TrialConfig
from trainables.recipes import recipe
from trainables.teacher_training import train_teacher
plan = recipe(TrialConfig.from_mapping(json.loads(sys.argv[1])), None)
say = lambda text: print("SAID", text, flush=True)
epoch = lambda row: print("EPOCH", row["epoch"], flush=True)
card = train_teacher(plan, sys.argv[2], None, torch.device("cpu"), epoch, say)
print("FOUND", card.fingerprint, flush=True)
"""


def test_who_comes_second_waits_says_so_and_finds_it_done(quick: Quick, tmp_path: Path) -> None:
    plan = recipe(quick(student="resnet8_x0.5", epochs=2), None)
    lock = teacher_lock(str(tmp_path), plan)
    assert lock is not None
    with lock:  # as another process holds it that is about to train
        second = subprocess.Popen(
            [sys.executable, "-c", WAIT, json.dumps(plan.config.to_dict()), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert second.stdout is not None
        said = second.stdout.readline()
        assert said == (
            "SAID teacher resnet8_x0.5 is being trained by another process: waiting for it\n"
        )
        training = TeacherTraining(plan, str(tmp_path), None, CPU)
        while training.run_epoch() is not None:
            pass
        card = training.finish()
    rest = second.communicate(timeout=120)[0]
    assert rest == f"FOUND {card.fingerprint}\n", "it trains no epoch"


def test_who_waited_for_one_that_died_goes_on_with_its_work(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train.Job
    monkeypatch.setattr(train, "Job", lambda **facts: job(**facts, checkpoint_seconds=0.0))
    plan, results = recipe(quick(student="resnet8_x0.5", epochs=3), None), str(tmp_path)
    lock = teacher_lock(results, plan)
    assert lock is not None
    said: list[str] = []
    rows: list[int] = []
    waiting = threading.Thread(
        target=train_teacher,
        args=(plan, results, None, CPU, lambda row: rows.append(row["epoch"]), said.append),
    )
    with lock:
        waiting.start()
        TeacherTraining(plan, results, None, CPU).run_epoch()
    waiting.join(120)
    assert rows == [2, 3]
    assert len(said) == 1


def test_spoilt_progress_of_a_teacher_is_said(quick: Quick, tmp_path: Path) -> None:
    plan, results = recipe(quick(student="resnet8_x0.5", epochs=1), None), str(tmp_path)
    folder = teacher_folder(results) / "checkpoints" / plan.key
    folder.write(PROGRESS, b"spoilt")
    folder.write(STUDENT, b"spoilt, too")
    said: list[str] = []
    rows: list[int] = []
    train_teacher(plan, results, None, CPU, lambda row: rows.append(row["epoch"]), said.append)
    assert rows == [1]
    assert len(said) == 1
    assert "starts afresh" in said[0]
    assert folder.names() == []


def test_the_first_to_file_a_teacher_decides(quick: Quick, tmp_path: Path) -> None:
    """In a bucket, which has no lock, two may train one teacher at a time."""
    plan, results = recipe(quick(student="resnet8_x0.5", epochs=1), None), str(tmp_path)
    slow = TeacherTraining(plan, results, None, CPU)
    slow.run_epoch()
    fast = TeacherTraining(plan, results, None, CPU)
    fast.run_epoch()
    with torch.no_grad():
        fast.run.training.student.classifier.bias += 0.1  # rounded otherwise, say
    card = fast.finish()
    assert slow.finish() == card
    assert find_teacher(results, plan.key) == card


def test_a_bucket_has_no_lock(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = recipe(quick(student="resnet8_x0.5", epochs=1), None)
    monkeypatch.setattr(
        train, "teacher_folder", lambda where: dataclasses.replace(_local(where), is_local=False)
    )
    assert teacher_lock("results", plan) is None


def _local(where: str) -> Folder:
    return teacher_folder(where)


def test_errors_of_a_teachers_training_name_it(quick: Quick, tmp_path: Path) -> None:
    def nothing(row: object) -> None: ...

    plan = recipe(quick(student="resnet8_x0.5", epochs=1, lr=1e30), None)
    with pytest.raises(Diverged, match=r"teacher resnet8_x0\.5: the loss became .*lower lr"):
        train_teacher(plan, str(tmp_path), None, CPU, nothing)
    lock = teacher_lock(str(tmp_path), plan)
    assert lock is not None
    lock.acquire(timeout=0)  # whoever fails leaves it
    lock.release()
    small = dataclasses.replace(plan, config=quick(student="vgg11", epochs=1))
    with pytest.raises(UserError, match=r"teacher resnet8_x0\.5: .*needs images of at least"):
        train_teacher(small, str(tmp_path), None, CPU, nothing)
