"""A finished student made a teacher."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables.adopting import adopt_student
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.job import STUDENT, Job, Run
from trainables.teachers.teacher import find_teacher, list_teachers, load_teacher

CPU = torch.device("cpu")


@pytest.fixture
def results(quick: Callable[..., TrialConfig], tmp_path: Path) -> str:
    """A results folder with two finished trials, and one that was interrupted."""
    for number, student in enumerate(("wrn_10_0.5", "resnet8_x0.25", "wrn_10_0.5")):
        config = quick(student=student, epochs=1 if number < 2 else 2)
        job = Job(
            config=config.to_dict(),
            sweep="s",
            trial_id=f"s-{number}",
            results=str(tmp_path),
            checkpoint_seconds=0,
        )
        run = Run(job, CPU)
        run.run_epoch()
        if run.finished:
            run.row("completed")
    return str(tmp_path)


def test_it_teaches_as_it_was_trained(results: str, digits: Dataset) -> None:
    card = adopt_student(results, "s", "s-0", "assistant")
    assert (card.name, card.model) == ("assistant", "wrn_10_0.5")
    assert find_teacher(results, "assistant") == card
    teacher = load_teacher(results, "assistant", "cpu")
    assert teacher.score(digits.read_test()).acc == card.test_acc
    assert (Path(results) / "s" / "checkpoints" / "s-0" / STUDENT).is_file()


def test_it_is_called_by_its_trial_and_adopted_once(results: str) -> None:
    card = adopt_student(results, "s", "s-0")
    assert card.name == "s-0"
    assert adopt_student(results, "s", "s-0") == card
    assert list_teachers(results) == {"s-0": card}


@pytest.mark.parametrize(
    ("trial_id", "name", "expected"),
    [
        ("s-1", "taken", "--name taken: is the name of another teacher in"),
        ("s-2", None, "trial 's-2' has no student: it has not completed"),
        ("s-9", None, "unknown trial 's-9'; did you mean s-"),
        ("../../s/checkpoints/s-0", None, "--name ../../s/checkpoints/s-0: expected letters"),
        ("../checkpoints/s-0", "fine", "unknown trial '../checkpoints/s-0'"),
        ("s-1", "../../out", "--name ../../out: expected letters"),
        ("s-1", "teacher", "--name teacher: is what `start: teacher` means already"),
    ],
)
def test_what_cannot_be_adopted(results: str, trial_id: str, name: str, expected: str) -> None:
    adopt_student(results, "s", "s-0", "taken")
    with pytest.raises(UserError) as caught:
        adopt_student(results, "s", trial_id, name)
    assert expected in str(caught.value)
    assert list(list_teachers(results)) == ["taken"]


def test_damaged_weights_teach_nobody(results: str) -> None:
    file = Path(results) / "s" / "checkpoints" / "s-0" / STUDENT
    data = bytearray(file.read_bytes())
    data[-1] ^= 128
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="is damaged"):
        adopt_student(results, "s", "s-0")
    assert list_teachers(results) == {}
