"""Several learners on one stream in one process: each ends as if it had been alone."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learners import DROPOUT, SETTINGS, alone, assert_same, start, study_together

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.methods.registry import PLAIN, term_class, term_names
from trainables.methods.term import LogitModifier
from trainables.models.outputs import Outputs
from trainables.randomness import Randomness, random_state, restore_random_state
from trainables.teachers.teacher import Teacher
from trainables.training import Training
from trainables.training.learner import Learner

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]
MODIFIERS = [name for name in term_names() if issubclass(term_class(name), LogitModifier)]
METHODS = [
    PLAIN,
    *(name for name in term_names() if name not in MODIFIERS),
    *(f"kd+{name}" for name in MODIFIERS),
    *("kd+mixup", "dml+mixup", "kd+fitnet"),
]


@pytest.fixture(scope="module")
def neighbours() -> dict[str, Learner]:
    """The learner that all methods are tried beside, as it is alone: trained once."""
    return {}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_beside_another(
    digits: Dataset, repeat: Quick, digits_teacher, neighbours: dict[str, Learner], method: str
) -> None:
    """The other one draws dropout and mixtures between the steps of the first."""
    teacher = digits_teacher.load()
    config = repeat(method=method, **SETTINGS.get(method, {}))
    other = repeat(method="kd+mixup", student=DROPOUT)
    if not neighbours:
        neighbours["alone"] = alone(other, digits, teacher)
    stream, learners = start([config, other], digits, teacher)
    study_together(stream, learners, 0)
    assert_same(learners[0], alone(config, digits, teacher))
    assert_same(learners[1], neighbours["alone"])


@pytest.mark.parametrize(
    ("student", "method"),
    [
        (DROPOUT, "dml"),
        (DROPOUT, "crd"),
        ("timm:ghostnet_050", "kd"),
        ("torchvision:mobilenet_v2", "mixup"),
    ],
)
def test_dropout_of_any_library(
    digits: Dataset, repeat: Quick, digits_teacher, student: str, method: str
) -> None:
    pytest.importorskip(student.partition(":")[0] if ":" in student else "torch")
    teacher = digits_teacher.load()
    config = repeat(student=student, method=method, batch_size=16, train_fraction=0.04)
    stream, learners = start([config, config.replace(lr=0.01)], digits, teacher)
    study_together(stream, learners, 0)
    assert len(stream.plan(0)) > 2
    assert_same(learners[0], alone(config, digits, teacher))
    assert draws(learners[0]), "the test is about a network that draws"


def draws(learner: Learner) -> bool:
    """Whether two passes over the same images differ."""
    learner.train()
    images = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        return not torch.equal(learner.student(images).logits, learner.student(images).logits)


def test_an_interruption_of_one_of_them(digits: Dataset, repeat: Quick, digits_teacher) -> None:
    teacher = digits_teacher.load()
    configs = [
        repeat(method="crd", epochs=2, **SETTINGS["crd"]),
        repeat(method="dml+mixup", student=DROPOUT, epochs=2),
    ]
    stream, learners = start(configs, digits, teacher)
    study_together(stream, learners, 0)
    buffer = io.BytesIO()
    torch.save(learners[1].state_dict(), buffer)
    study_together(stream, learners, 1)

    # The second goes on elsewhere, beside a newcomer.
    random.seed(5)
    stream, others = start([configs[1], repeat(method="mixup", epochs=2)], digits, teacher)
    others[0].load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    study_together(stream, others, 1)
    assert_same(learners[0], alone(configs[0], digits, teacher))
    assert_same(learners[1], alone(configs[1], digits, teacher))
    assert_same(others[0], learners[1])


def test_what_only_one_of_them_reads_of_the_teacher(
    digits: Dataset, repeat: Quick, digits_teacher, tmp_path: Path, monkeypatch
) -> None:
    """Tables that hold logits, embeddings and both, and a live teacher; all empty at first."""
    teacher = digits_teacher.load()
    methods = ("kd", "kd+rkd", "rkd", "kd+at", "dist", "student")
    configs = [repeat(method=method, teacher_cache="float16", epochs=2) for method in methods]
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "together"))
    stream, learners = start(configs, digits, teacher)
    for epoch in range(2):
        study_together(stream, learners, epoch)
    assert learners[0].lessons["teacher"] is learners[4].lessons["teacher"]
    for number, (config, learner) in enumerate(zip(configs, learners, strict=True)):
        monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / f"alone{number}"))
        assert_same(learner, alone(config, digits, teacher))


class CountingTeacher(Teacher):
    """Counts how often it was asked."""

    asked = 0

    def __call__(self, *given: Any, **more: Any) -> Outputs:
        self.asked += 1
        return super().__call__(*given, **more)


def test_the_teacher_is_asked_once_for_all(digits: Dataset, repeat: Quick, digits_teacher) -> None:
    loaded = digits_teacher.load()
    teacher = CountingTeacher(loaded.network, loaded.card, CPU)
    configs = [repeat(method=method) for method in ("kd", "dkd", "kd", "at", "student")]
    stream, learners = start(configs, digits, teacher)
    study_together(stream, learners, 0)
    assert teacher.asked == 2 * len(stream.plan(0)), "for logits, and as deep as stages are read"
    mixing = repeat(method="kd+mixup")
    stream, learners = start([mixing, mixing], digits, teacher)
    teacher.asked = 0
    study_together(stream, learners, 0)
    assert teacher.asked == 2 * len(stream.plan(0)), "each mixes images of its own"


def test_draws_from_python_and_numpy_are_its_own(digits: Dataset, repeat: Quick) -> None:
    def draw_in(learner: Learner, drawn: list[Any]) -> None:
        def draw(*_: object) -> None:
            drawn.append((random.gauss(0, 1), np.random.standard_normal(), torch.rand(()).item()))

        learner.student.register_forward_hook(draw)

    config = repeat(epochs=2)
    stream, learners = start([config, config.replace(lr=0.2)], digits, None)
    drawn: list[list[Any]] = [[], [], []]
    for learner, own in zip(learners, drawn, strict=False):
        draw_in(learner, own)
    for epoch in range(2):
        study_together(stream, learners, epoch)
        for learner in learners:
            learner.score(digits.train, positions=stream.val_indices)
    training = Training(config, digits, config.student, None, CPU)
    draw_in(training.learner, drawn[2])
    training.run_epoch()
    training.run_epoch()
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(set(drawn[0])) == len(drawn[0]) > 8


def test_others_are_left_alone(digits: Dataset, repeat: Quick) -> None:
    """Whoever draws in the same process beside a learner finds what he would have found."""

    def draw() -> list[float]:
        return [random.random(), np.random.random(), torch.rand(()).item()]

    state = random_state(CPU)
    expected = draw()
    restore_random_state(state, CPU)
    training = Training(repeat(method="mixup", student=DROPOUT), digits, DROPOUT, None, CPU)
    training.run_epoch()
    training.test()
    training.load_state_dict(training.state_dict())
    assert draw() == expected


def test_contexts_within_one_another_and_errors() -> None:
    own = Randomness(1, CPU)
    with own:
        first = [torch.rand(()).item() for _ in range(3)]
    own = Randomness(1, CPU)
    torch.manual_seed(9)
    expected = torch.rand(2)[1]
    torch.manual_seed(9)
    torch.rand(1)
    found = []

    def fail() -> None:
        with own:
            found.append(torch.rand(()).item())
            with own:
                found.append(torch.rand(()).item())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with own:
        found.append(torch.rand(()).item())
    assert found == first
    assert torch.rand(1)[0] == expected
