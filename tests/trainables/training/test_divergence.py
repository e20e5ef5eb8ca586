"""Losses that are no numbers: who is to blame, the settings or the teacher."""

import copy
from collections.abc import Callable

import pytest
import torch
from short_training import train

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import Diverged, TeacherBroken
from trainables.teachers.teacher import Teacher

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def test_divergence_names_epoch_and_term(digits: Dataset, quick: Quick, digits_teacher) -> None:
    config = quick(method="kd", teacher="resnet8", lr=1e6, train_fraction=0.2)
    training = train(config, digits, digits_teacher.load())
    with pytest.raises(Diverged, match=r"became (nan|inf) in epoch 1, term .*(ce|kd).*; lower lr"):
        training.run_epoch()


def test_one_broken_term_is_told_from_the_others(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    config = quick(method="kd+at", teacher="resnet8", epochs=1, batch_size=4096)  # one step
    training = train(config, digits, digits_teacher.load())
    training.method.terms["at"].register_forward_hook(lambda *given: given[-1] * float("inf"))
    with pytest.raises(Diverged, match=r"became inf in epoch 1, term at;"):
        training.run_epoch()


def test_a_student_that_the_last_update_broke_is_no_result(digits: Dataset, quick: Quick) -> None:
    """One step: its loss is that of the fresh weights."""
    config = quick(lr=1e30, epochs=1, batch_size=4096)
    with pytest.raises(Diverged, match=r"the validation loss is (nan|inf) after epoch 1; lower lr"):
        train(config, digits).run_epoch()
    whole = train(config.replace(val_fraction=0.0), digits)
    whole.run_epoch()
    with pytest.raises(Diverged, match=r"the test loss is (nan|inf) after epoch 1"):
        whole.test()


def broken(teacher: Teacher, value: float = float("nan")) -> Teacher:
    """A teacher of its own whose classifier says nothing any more."""
    network = copy.deepcopy(teacher.network)
    with torch.no_grad():
        network.classifier.weight[0, 0] = value
    return Teacher(network, teacher.card, CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_says_no_numbers_is_named_before_it_teaches(
    digits: Dataset, quick: Quick, digits_teacher, value: float
) -> None:
    config = quick(method="kd+at", teacher="resnet8")
    with pytest.raises(TeacherBroken, match=r"teacher resnet8 says (nan|-?inf) .*\(logits\)") as it:
        train(config, digits, broken(digits_teacher.load(), value)).check_teacher()
    assert "lr" not in str(it.value)


def test_of_a_teacher_only_what_is_read_must_be_numbers(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    config = quick(method="at", teacher="resnet8", epochs=1)
    training = train(config, digits, broken(digits_teacher.load()))
    training.check_teacher()
    training.run_epoch()


def test_a_teacher_that_breaks_on_later_images_gets_the_blame(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    config = quick(method="kd", teacher="resnet8", epochs=1)
    training = train(config, digits, digits_teacher.load())
    lesson = training.learner.lessons["teacher"]
    lesson.teacher = broken(lesson.teacher)
    with pytest.raises(TeacherBroken, match="teacher resnet8 says nan to images of the data"):
        training.run_epoch()
