"""A teacher trained in place: once, to the end, and found again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables import teacher_training as train
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.experiment import config_key
from trainables.models.weights import SUFFIX, read_network
from trainables.recipes import Filed, lineage, recipe
from trainables.teacher_training import TeacherTraining, train_teacher
from trainables.teachers.teacher import (
    find_teacher,
    list_teachers,
    load_teacher,
    teacher_folder,
)

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def forbidden(row: object) -> None:
    raise AssertionError(f"trained again: {row}")


def test_a_trained_teacher_is_found(digits: Dataset, digits_teacher) -> None:
    card = digits_teacher.card
    assert card.name == card.model == "resnet8"
    assert card.test_acc > 0.6
    assert find_teacher(digits_teacher.results, digits_teacher.file) == card
    assert list_teachers(digits_teacher.results)[digits_teacher.file] == card
    assert digits_teacher.load().score(digits.read_test()).acc == card.test_acc


def test_it_is_trained_once(quick: Quick, tmp_path: Path) -> None:
    plan = recipe(quick(student="resnet8_x0.5", epochs=2), None)
    rows: list[dict] = []
    card = train_teacher(plan, str(tmp_path), None, CPU, rows.append)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert train_teacher(plan, str(tmp_path), None, CPU, forbidden) == card
    assert card.name == "resnet8_x0.5"
    job_folder = teacher_folder(str(tmp_path)) / "checkpoints" / plan.key
    assert job_folder.names() == [], "nothing but the teacher is left"


def test_the_file_is_named_by_what_decides_the_weights(quick: Quick) -> None:
    base = recipe(quick(student="wrn_16_2_x0.5"), None)
    assert base.name == "wrn_16_1"
    assert base.key.startswith("wrn_16_1-")
    assert recipe(quick(student="wrn_16_1"), None).key == base.key
    assert recipe(quick(student="wrn_16_1", lr=0.2), None).key != base.key
    assert recipe(quick(student="wrn_16_1", seed=1), None).key != base.key


def test_the_file_of_a_plain_teacher_stays_where_it_is(quick: Quick, digits: Dataset) -> None:
    config = quick(student="resnet8")
    facts = {"data_fingerprint": digits.fingerprint, "teacher_fingerprint": None}
    assert recipe(config, None).key == f"resnet8-{config_key(config, student='resnet8', **facts)}"


def test_an_assistant_is_distilled_after_its_teacher(quick: Quick, tmp_path: Path) -> None:
    top = recipe(quick(student="resnet14_x0.5", epochs=1), None)
    config = quick(student="resnet8_x0.5", epochs=1, method="kd", teacher=top.name)
    middle = recipe(config, None, top)
    below = quick(student="resnet8_x0.25", epochs=1, method="at", teacher=middle.name)
    bottom = recipe(below, None, middle)
    assert list(lineage(bottom)) == [top, middle, bottom]
    assert bottom.name == "resnet8_x0.25(at:resnet8_x0.5(kd:resnet14_x0.5))"
    results = str(tmp_path)
    rows: list[dict] = []
    card = train_teacher(bottom, results, None, CPU, rows.append)
    assert [sorted(row["term_losses"]) for row in rows] == [["ce"], ["ce", "kd"], ["at", "ce"]]
    assert (card.name, card.model) == (bottom.name, "resnet8_x0.25")
    files = [step.file for step in (top, middle, bottom)]
    assert teacher_folder(results).names() == sorted(file + SUFFIX for file in files)
    # Found again, the whole chain is left alone; of another top, everything below is new.
    assert train_teacher(bottom, results, None, CPU, forbidden) == card
    other = recipe(config, None, recipe(quick(student="resnet14_x0.5", epochs=2), None))
    assert other.key != middle.key
    assert recipe(below, None, other).key != bottom.key


def test_it_learns_from_its_teacher_and_not_beside_it(quick: Quick, tmp_path: Path) -> None:
    """With no share of the cross-entropy, all that it knows of the digits is its teacher's."""
    results = str(tmp_path)
    top = recipe(quick(student="resnet8", epochs=3, train_fraction=1.0), None)
    facts = {"student": "resnet8", "epochs": 3, "train_fraction": 1.0, "kd.alpha": 1.0}
    config = quick(method="kd", teacher=top.name, **facts)
    card = train_teacher(recipe(config, None, top), results, None, CPU, lambda row: None)
    assert card.test_acc > 0.5


def test_a_teacher_that_is_there_can_be_above(quick: Quick, digits_teacher) -> None:
    above = Filed(digits_teacher.file, digits_teacher.card)
    config = quick(student="resnet8_x0.5", epochs=1, method="kd", teacher="resnet8")
    made = recipe(config, None, above)
    assert made.name == "resnet8_x0.5(kd:resnet8)"
    rows: list[dict] = []
    train_teacher(made, digits_teacher.results, None, CPU, rows.append)
    assert [sorted(row["term_losses"]) for row in rows] == [["ce", "kd"]]
    folder = teacher_folder(digits_teacher.results)
    folder.delete(made.file + SUFFIX)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"method": "kd", "teacher": "x"}, "method 'kd' needs a teacher of its own"),
        ({"student": "wrn_10_1", "width": 0.5}, "without compression"),
    ],
)
def test_a_recipe_says_all_that_it_needs(quick: Quick, values: dict, expected: str) -> None:
    with pytest.raises(UserError, match=f"teacher: .*{expected}"):
        recipe(quick(**values), None)


def test_a_plain_teacher_has_none_above(quick: Quick, digits_teacher) -> None:
    with pytest.raises(UserError, match="method 'student' reads nothing of a teacher"):
        recipe(quick(), None, Filed(digits_teacher.file, digits_teacher.card))


def test_an_interrupted_training_continues(quick: Quick, tmp_path: Path, monkeypatch) -> None:
    config = quick(student="resnet8_x0.5", epochs=3)
    plan = recipe(config, None)
    calm = train_teacher(plan, str(tmp_path / "calm"), None, CPU, lambda row: None)

    job = train.Job
    monkeypatch.setattr(train, "Job", lambda **facts: job(**facts, checkpoint_seconds=0.0))
    results = str(tmp_path / "stormy")
    TeacherTraining(plan, results, None, CPU).run_epoch()
    rows: list[dict] = []
    stormy = train_teacher(plan, results, None, CPU, rows.append)
    assert [row["epoch"] for row in rows] == [2, 3]
    assert stormy.fingerprint == calm.fingerprint
    assert stormy.test_acc == calm.test_acc


def test_a_teacher_that_could_not_be_filed_is_not_trained_again(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = recipe(quick(student="resnet8_x0.5", epochs=1), None)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(train, "file_teacher", full)
        with pytest.raises(OSError, match="No space"):
            train_teacher(plan, str(tmp_path), None, CPU, lambda row: None)
    assert find_teacher(str(tmp_path), plan.key) is None

    card = train_teacher(plan, str(tmp_path), None, CPU, forbidden)
    assert card.test_acc > 0
    assert read_network(teacher_folder(str(tmp_path)), plan.key + SUFFIX)[0] == card


def test_a_damaged_teacher_is_refused(quick: Quick, tmp_path: Path) -> None:
    plan = recipe(quick(student="resnet8_x0.5", epochs=1), None)
    card = train_teacher(plan, str(tmp_path), None, CPU, lambda row: None)
    folder, file = teacher_folder(str(tmp_path)), plan.key + SUFFIX
    data = bytearray(folder.read(file))
    data[-1] ^= 128
    folder.write(file, bytes(data))
    with pytest.raises(UserError, match=rf"{file} is damaged.*expected {card.fingerprint[:12]}"):
        load_teacher(str(tmp_path), plan.key, "cpu")
    folder.write(file, bytes(data[:500]))
    with pytest.raises(UserError, match=f"{file} is damaged"):
        find_teacher(str(tmp_path), plan.key)


def test_an_unknown_teacher_is_named_with_its_neighbours(digits_teacher) -> None:
    with pytest.raises(UserError, match="unknown teacher 'resnet8'; did you mean resnet8-"):
        load_teacher(digits_teacher.results, "resnet8", "cpu")
    assert find_teacher(digits_teacher.results, "resnet8") is None
