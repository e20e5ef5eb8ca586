"""Which parts of a method count when."""

from collections.abc import Callable

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.methods.method import Method
from trainables.methods.phases import THROUGHOUT, Phase, Stretch, phases_of
from trainables.methods.registry import resolve_settings
from trainables.models.outputs import Outputs, Shapes
from trainables.teachers.teacher import Teacher
from trainables.training import Training

SHAPES = Shapes(10, 8, ((4, 8, 8), (8, 4, 4)))
TWO_STAGES = {"fitnet.schedule": "two_stage", "fitnet.hint_fraction": 0.5}


def parts(**terms: tuple[Stretch, ...]) -> list[tuple[float, set[str]]]:
    return [(phase.until, set(phase.parts)) for phase in phases_of(terms)]


def test_most_methods_have_one() -> None:
    assert phases_of({}) == (Phase(1.0, frozenset({"ce"})),)
    assert parts(kd=THROUGHOUT, at=THROUGHOUT) == [(1.0, {"ce", "kd", "at"})]


def test_a_term_that_is_alone_at_first() -> None:
    early = Stretch(0.2, "alone"), Stretch(1.0, "not")
    assert parts(fitnet=early, kd=THROUGHOUT) == [(0.2, {"fitnet"}), (1.0, {"ce", "kd"})]
    warm = Stretch(0.2, "alone"), Stretch(1.0, "beside")
    assert parts(one=warm) == [(0.2, {"one"}), (1.0, {"ce", "one"})]


def test_two_are_alone_together() -> None:
    short = Stretch(0.2, "alone"), Stretch(1.0, "not")
    long = Stretch(0.3, "alone"), Stretch(1.0, "beside")
    late = Stretch(0.6, "not"), Stretch(1.0, "beside")
    assert parts(short=short, long=long, late=late) == [
        (0.2, {"short", "long"}),
        (0.3, {"long"}),
        (0.6, {"ce", "long"}),
        (1.0, {"ce", "long", "late"}),
    ]


def test_a_term_says_how_it_ends() -> None:
    for stretches in ((), (Stretch(0.5, "alone"),)):
        with pytest.raises(ValueError, match="term 'odd': its stretches end before the training"):
            phases_of({"odd": stretches})


def test_when_one_phase_becomes_the_next() -> None:
    made = Method("kd+fitnet", resolve_settings("kd+fitnet", TWO_STAGES), SHAPES, SHAPES)
    for progress in (0.0, 0.3, 0.4999):
        assert made.phase(progress).parts == {"fitnet"}
    for progress in (0.5, 0.9999):
        assert made.phase(progress).parts == {"ce", "kd"}
    whole = Method("kd+fitnet", resolve_settings("kd+fitnet", {}), SHAPES, SHAPES)
    assert [phase.until for phase in whole.phases] == [1.0]


class CountingTeacher(Teacher):
    """Counts how often it was asked."""

    asked = 0

    def __call__(self, *given: object, **more: object) -> Outputs:
        self.asked += 1
        return super().__call__(*given, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "later"), [("fitnet", 0), ("kd+fitnet", 1)])
def test_the_teacher_rests_where_nothing_is_read(
    digits: Dataset, quick: Callable[..., TrialConfig], digits_teacher, method: str, later: int
) -> None:
    """In the second epoch the hint counts no more."""
    loaded = digits_teacher.load()
    teacher = CountingTeacher(loaded.network, loaded.card, torch.device("cpu"))
    config = quick(method=method, teacher="resnet8", epochs=2, **TWO_STAGES)
    training = Training(config, digits, "wrn_10_1", teacher, torch.device("cpu"))
    steps = len(training.stream.plan(0))
    losses = []
    for expected in (steps, later * steps):
        teacher.asked = 0
        losses.append(training.run_epoch()["term_losses"])
        assert teacher.asked == expected
    assert losses[0]["ce"] == losses[1]["fitnet"] == 0
    assert losses[0]["fitnet"] > 0
    assert losses[1]["ce"] > 0
