"""Students that a step changes, compiled: what is compiled anew, and where their weights lie."""

import functools
from collections.abc import Callable, Iterator

import pytest
from short_training import epochs
from some_steps import Halve, train
from torch import nn
from torch._dynamo.utils import counters

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.engine import compiling, places
from trainables.engine.compiling import CompiledNetwork
from trainables.training import Training
from trainables.worker import WORKER

Quick = Callable[..., TrialConfig]


@pytest.fixture
def compiled(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> Iterator[Quick]:
    """Trials that compile, by the shortest way."""
    make = functools.partial(CompiledNetwork, backend="aot_eager")
    monkeypatch.setattr("trainables.training.participants.CompiledNetwork", make)
    WORKER.release()
    yield functools.partial(quick, compile=True, lr=0.02)
    WORKER.release()


def test_a_compiled_student_is_compiled_anew(
    digits: Dataset, quick: Quick, compiled: Quick
) -> None:
    """Once for all students that keep equally many channels, whichever these are."""
    before = counters["stats"]["unique_graphs"]
    found = []
    for seed in (1, 2):
        training = train(compiled(epochs=2, seed=seed), digits, None, Halve(0.5))
        found.append(training.student)
        losses = [row["train_loss"] for row in epochs(training, 2)]
        assert counters["stats"]["unique_graphs"] == before + 2
        plain = train(quick(epochs=2, seed=seed, lr=0.02), digits, None, Halve(0.5))
        assert losses == pytest.approx([row["train_loss"] for row in epochs(plain, 2)], rel=1e-4)
    assert found[0].blueprint != found[1].blueprint
    assert not compiling._FAILED


def test_a_cut_student_leaves_its_places(digits: Dataset, compiled: Quick) -> None:
    """Another one takes them, and neither computes in the weights of the other."""

    def addresses(training: Training) -> set[int]:
        return {weight.data_ptr() for weight in training.student.parameters()}

    first = train(compiled(epochs=2), digits, None, Halve(0.5))
    whole = addresses(first)
    epochs(first, 2)
    assert not addresses(first) & whole
    second = train(compiled(epochs=2, seed=1), digits, None, Halve(0.5))
    assert addresses(second) == whole
    halved = addresses(first)
    epochs(second, 2)
    assert not addresses(second) & (halved | whole), "the first one is still in its places"


def test_places_of_many_kinds_are_not_kept_for_ever() -> None:
    WORKER.release()
    for size in range(places.MOST + 9):
        places.settle(nn.Linear(1, 1 + size), size)
    assert len(places._PLACES) == places.MOST
    kept = nn.Linear(1, 1)
    places.settle(kept, "in use")
    for size in range(places.MOST + 9):
        places.settle(nn.Linear(1, 1 + size), size)
    assert "in use" in places._PLACES
    WORKER.release()
