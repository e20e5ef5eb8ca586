"""A worker that Ray or its node ended is tried again; what it raised is not taken for that."""

import pytest
from ray import exceptions

from orchestrator.sweeps import teacher_stage
from orchestrator.sweeps.deaths import NO_MEMORY, how_it_died
from orchestrator.sweeps.teacher_stage import MAX_ATTEMPTS
from trainables.errors import TrainingFailed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ActorDiedError(), "the worker process died"),
        (exceptions.ActorUnavailableError("no answer", None), "the worker process died"),
        (exceptions.NodeDiedError("gone"), "the worker process died"),
        (exceptions.WorkerCrashedError(), "the worker process died"),
        (exceptions.OutOfMemoryError("killed"), "as its node was out of memory"),
        (
            exceptions.ActorDiedError(
                exceptions.RayTaskError("f", "trace\nImportError: no module 'x'\n", ImportError())
            ),
            "the worker could not start: ImportError: no module 'x'",
        ),
        (exceptions.RayTaskError("f", "trace", ValueError("x")), None),
        (exceptions.GetTimeoutError(), None),
        (ValueError("x"), None),
    ],
)
def test_how_a_worker_ended(error, expected):
    found = how_it_died(error)
    assert found is None if expected is None else expected in found


class Told:
    """Ray's answer to every call, and what the user is told."""

    def __init__(self, error: Exception) -> None:
        self.error, self.lines, self.begun = error, list[str](), 0

    def get(self, call: object) -> None:
        raise self.error

    def stage(self, text: str) -> None:
        self.lines.append(text)

    def start(self, lesson, alone: bool) -> None:
        self.begun += 1
        lesson.attempts += 1


def test_a_teacher_whose_worker_lacked_memory_is_tried_again(monkeypatch):
    """As often as one whose worker died, and then in one line."""
    told = Told(exceptions.OutOfMemoryError("a page about memory"))
    monkeypatch.setattr("ray.get", told.get)
    monkeypatch.setattr("ray.kill", lambda worker: None)
    recipe = type("Recipe", (), {"name": "wrn"})()
    lesson = teacher_stage._Lesson(recipe, None, 0.0, attempts=1)
    stage = teacher_stage._Stage(None, told, [])
    stage._lessons.append(lesson)
    monkeypatch.setattr(stage, "_start", told.start)
    for _ in range(MAX_ATTEMPTS - 1):
        stage._advance(lesson)
    assert told.begun == MAX_ATTEMPTS - 1
    line = f"teacher wrn: {NO_MEMORY}"
    assert told.lines == [f"{line}; trying again"] * told.begun
    with pytest.raises(TrainingFailed) as raised:
        stage._advance(lesson)
    assert str(raised.value) == f"{line}; tried {MAX_ATTEMPTS} times"
