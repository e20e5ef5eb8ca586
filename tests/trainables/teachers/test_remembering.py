"""Training with looked-up answers is training with the live teacher."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.job import Job, Run
from trainables.teachers import remembering as tables
from trainables.teachers.remembering import RememberingTeacher
from trainables.teachers.teacher import Teacher
from trainables.training import Training

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Tables of this test alone."""
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def train(digits: Dataset, quick: Quick, digits_teacher: Any) -> Callable[..., Training]:
    """A training of two short epochs that shares the teacher and its tables with the others."""

    def make(epochs: int = 2, **changes: object) -> Training:
        values = {"method": "kd", "teacher": "resnet8", "flip": True, "teacher_cache": "float16"}
        values["train_fraction"] = 0.1
        config = quick(**{**values, **changes})
        training = Training(config, digits, config.student, digits_teacher.load(), CPU)
        training.losses = [training.run_epoch()["train_loss"] for _ in range(epochs)]  # type: ignore[attr-defined]
        return training

    return make


def weights(training: Training) -> list[torch.Tensor]:
    return list(training.student.state_dict().values())


def test_losses_are_those_of_the_live_teacher(train: Callable[..., Training]) -> None:
    live = train(teacher_cache="off").losses
    for table, rtol in (("float16", 1e-3), ("bfloat16", 1e-2), ("float32", 1e-6)):
        assert train(teacher_cache=table).losses == pytest.approx(live, rel=rtol)  # filling
        assert train(teacher_cache=table).losses == pytest.approx(live, rel=rtol)  # looking up


def test_the_first_trial_fills_and_the_second_asks_nobody(train: Callable[..., Training]) -> None:
    first = train()
    assert 0 <= first.hit_rate < 0.1  # type: ignore[operator]  # a view may come again
    second = train()
    assert second.hit_rate == 1.0
    for ours, theirs in zip(weights(first), weights(second), strict=True):
        assert torch.equal(ours, theirs)  # who asks first makes no difference


def test_another_method_and_student_find_the_same_answers(train: Callable[..., Training]) -> None:
    train()
    assert train(method="dist", student="resnet8").hit_rate == 1.0


def test_another_data_set_has_answers_of_its_own(
    train: Callable[..., Training], quick: Quick, digits: Dataset, digits_teacher: Any
) -> None:
    """Of as many images of one size, as after one label or pixel was mended."""
    train()
    pixels = dataclasses.replace(digits.train, images=255 - digits.train.images)
    other = dataclasses.replace(digits, train=pixels, fingerprint="f" * 64)
    config = quick(
        method="kd", teacher="resnet8", flip=True, teacher_cache="float16", train_fraction=0.1
    )
    found = []
    for dataset in (other, digits, other):
        training = Training(config, dataset, config.student, digits_teacher.load(), CPU)
        training.run_epoch()
        found.append(training.hit_rate)
    assert found == [0.0, 1.0, 1.0]


def test_another_precision_has_answers_of_its_own(train: Callable[..., Training]) -> None:
    rates = [
        train(epochs=1, teacher_precision=precision).hit_rate
        for precision in ("fp32", "bf16", "fp32", "bf16")
    ]
    assert rates == [0.0, 0.0, 1.0, 1.0]


def test_another_augmentation_has_answers_of_its_own(train: Callable[..., Training]) -> None:
    plans = [{}, {"crop_padding": 2}, {"flip": False}, {"crop_padding": 2, "flip": False}]
    plans.append({"resized_crops": 81})
    for expected in (0.0, 1.0):  # filling, looking up
        assert [train(epochs=1, **plan).hit_rate for plan in plans] == [expected] * 5


def test_resized_crops_are_looked_up_as_they_were_answered(train: Callable[..., Training]) -> None:
    """Whoever comes second ends with the very weights of the first; another repeat finds some."""
    first, second = train(resized_crops=6), train(resized_crops=6)
    assert second.hit_rate == 1.0
    for ours, theirs in zip(weights(first), weights(second), strict=True):
        assert torch.equal(ours, theirs)
    assert 0.1 < train(resized_crops=6, view_seed=1).hit_rate < 1  # type: ignore[operator]


def test_another_repeat_sees_other_views(train: Callable[..., Training]) -> None:
    train()
    assert 0 < train(view_seed=1).hit_rate < 1  # type: ignore[operator]


def test_the_live_teacher_is_silent_where_all_is_known(
    train: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    train()

    def asked(*_: object) -> None:
        raise AssertionError("the live teacher was asked")

    monkeypatch.setattr(Teacher, "__call__", asked)
    assert train().hit_rate == 1.0
    with pytest.raises(AssertionError, match="was asked"):
        train(view_seed=3)


def test_the_first_answer_holds_for_everybody(
    train: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials ask at once; the one that comes second takes over what the first has stored."""
    first = train(epochs=0)
    second = train(epochs=0)
    indices = first.stream.train_indices[:32]
    (feed,) = first.stream(0, [indices])

    def answers_of(training: Training) -> RememberingTeacher:
        answers = training.learner.lessons["teacher"].answers
        assert answers
        return answers

    def ask(training: Training) -> torch.Tensor:
        (known,) = feed.known.values()
        return answers_of(training)(feed.views, indices, known).logits

    theirs: list[torch.Tensor] = []
    live = answers_of(second)._live

    def while_another_answers(views: torch.Tensor) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(answers_of(second), "_live", live)
        theirs.append(ask(first))
        return {what: answer + 1 for what, answer in live(views).items()}

    monkeypatch.setattr(answers_of(second), "_live", while_another_answers)
    assert torch.equal(ask(second), theirs[0])
    (feed,) = second.stream(0, [indices])  # looked up anew
    assert feed.known[answers_of(second)].found.all()
    assert torch.equal(ask(second), theirs[0])


@pytest.mark.parametrize("method", ["student", "at", "kd+at", "dml", "kd+mixup"])
def test_methods_that_no_table_can_serve(train: Callable[..., Training], method: str) -> None:
    """Feature maps need a forward pass, which gives the logits as well; mixed images are new."""
    assert train(epochs=1, method=method).hit_rate is None


@pytest.mark.parametrize("method", ["rkd", "kd+rkd", "crd", "srd"])
def test_embeddings_are_looked_up_as_well(train: Callable[..., Training], method: str) -> None:
    live = train(method=method, teacher_cache="off").losses
    train(method=method, teacher_cache="float32")
    again = train(method=method, teacher_cache="float32")
    assert again.losses == pytest.approx(live, rel=1e-6)
    assert again.hit_rate == 1.0


def test_mixed_logits_are_looked_up(train: Callable[..., Training]) -> None:
    settings = {"method": "kd+mixup", "mixup.teacher_mix": "logits"}
    live = train(**settings, teacher_cache="off").losses
    train(**settings, teacher_cache="float32")
    again = train(**settings, teacher_cache="float32")
    assert again.hit_rate == 1.0
    assert again.losses == pytest.approx(live, rel=1e-6)


def test_an_interrupted_trial_counts_and_learns_the_same(train: Callable[..., Training]) -> None:
    whole = train(epochs=3, teacher_cache="float32")
    half = train(epochs=1, teacher_cache="float32", view_seed=0)
    state = half.state_dict()
    other = train(epochs=0, teacher_cache="float32")
    other.load_state_dict(state)
    other.run_epoch()
    other.run_epoch()
    assert other.hit_rate == 1.0
    for ours, theirs in zip(weights(whole), weights(other), strict=True):
        assert torch.equal(ours, theirs)


def test_without_room_the_teacher_runs_live(
    train: Callable[..., Training],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tables._opened.cache_clear()
    live = train(teacher_cache="off").losses
    monkeypatch.setenv("KDSWEEP_CACHE_GB", "0.000001")
    found = train()
    assert found.hit_rate is None
    assert found.losses == pytest.approx(live)
    assert "the teacher runs live" in caplog.text
    assert "KDSWEEP_CACHE_GB" in caplog.text
    caplog.clear()
    train()
    assert "the teacher runs live" not in caplog.text  # once per process


def test_values_beyond_the_tables_dtype_stay_live(
    train: Callable[..., Training], digits_teacher: Any
) -> None:
    teacher = digits_teacher.load()
    bias = teacher.network.classifier.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[0] += 1e5
    try:
        live = train(teacher_cache="off").losses
        train()
        found = train()
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert found.hit_rate == 0.0
    assert found.losses == pytest.approx(live, rel=1e-6)


def test_rows_say_what_was_looked_up(make_job: Callable[..., Job], quick: Quick) -> None:
    def row(name: str, **changes: object) -> dict[str, Any]:
        kept = {"teacher_cache": "float16", **changes}
        config = quick(method="kd", teacher="resnet8", epochs=1, **kept)
        run = Run(make_job(config, name), CPU)
        run.run_epoch()
        return run.row("completed")

    rows = [row("one"), row("two"), row("three", teacher_cache="off")]
    assert [one.get("teacher_cache_hit_rate") for one in rows] == [0.0, 1.0, None]  # one epoch
    assert rows[0]["test_acc"] == rows[1]["test_acc"]
    assert {one["precision"] for one in rows} == {"fp32"}
    assert json.loads(rows[0]["term_weights"])["kd.alpha"] == 0.9
