"""A training that is interrupted goes on as if nothing had been."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from short_training import assert_same_weights, epochs, saved, train

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.training import Training

Quick = Callable[..., TrialConfig]
INTERRUPTED = [
    {"method": "kd+at", "schedule": "cosine", "momentum": 0.9, "nesterov": True},
    {"method": "kd", "optimizer": "adam", "lr": 1e-3, "schedule": "step", "warmup_epochs": 1.5},
    {"student": "mobilenetv2-minus15_x0.25"},  # dropout
    {"method": "dml", "peers": 2, "peer": "mobilenetv2-minus15_x0.25"},
    {"method": "dml+mixup", "update": "together", "optimizer": "adam", "lr": 1e-3},
    {"method": "kd+mixup", "mixup.alpha": 0.2, "resized_crops": 12},
    {"method": "fitnet", "optimizer": "muon", "lr": 0.02},
    {"method": "dml", "optimizer": "soap", "lr": 3e-3},
]


@pytest.fixture(scope="module")
def calm() -> dict[int, tuple[Training, list[dict[str, Any]]]]:
    """Each of `INTERRUPTED`, by its place, trained without interruption, and its rows."""
    return {}


# After one epoch or two, by turns; `make soak` takes both.
@pytest.mark.parametrize(
    ("values", "stop"),
    [
        pytest.param(
            values,
            stop,
            marks=[] if place % 2 == stop % 2 else pytest.mark.soak,
            id=f"{values.get('method', 'student')}-{stop}",
        )
        for place, values in enumerate(INTERRUPTED)
        for stop in (1, 2)
    ],
)
def test_an_interruption_leaves_no_trace(
    digits: Dataset,
    quick: Quick,
    digits_teacher,
    calm: dict[int, tuple[Training, list[dict[str, Any]]]],
    values: dict[str, Any],
    stop: int,
) -> None:
    config = quick(teacher="resnet8", train_fraction=0.1, **values)
    place = INTERRUPTED.index(values)
    if place not in calm:
        training = train(config, digits, digits_teacher.load())
        calm[place] = training, epochs(training, 3)
    undisturbed, rows = calm[place]

    first = train(config, digits, digits_teacher.load())
    interrupted = epochs(first, stop)
    state = torch.load(io.BytesIO(saved(first)), weights_only=True)
    torch.manual_seed(1234)
    torch.rand(77)  # what another trial in the same process would have drawn
    second = train(config, digits, digits_teacher.load())
    second.load_state_dict(state)
    interrupted += epochs(second, 3 - stop)

    assert second.train_seconds > first.train_seconds
    assert interrupted == rows
    for name, network in undisturbed.learner.networks.items():
        assert_same_weights(second.learner.networks[name], network)
    assert_same_weights(second.method, undisturbed.method)
    assert second.test() == undisturbed.test()


def test_every_generator_goes_on_where_it_stood(digits: Dataset, quick: Quick) -> None:
    """Also Python's and NumPy's, from which a term of another package may draw."""

    def draw() -> list[float]:
        return [random.gauss(), np.random.standard_normal(), torch.randn(()).item()]

    training = train(quick(), digits)
    with training.learner.random:
        draw()
    state = torch.load(io.BytesIO(saved(training)), weights_only=True)
    with training.learner.random:
        expected = draw()
    training.load_state_dict(state)
    with training.learner.random:
        assert draw() == expected


def test_dropout_is_at_work_in_that_student(digits: Dataset, quick: Quick) -> None:
    training = train(quick(student="mobilenetv2-minus15_x0.25", train_fraction=0.1), digits)
    assert any(
        isinstance(module, torch.nn.Dropout) and module.p > 0
        for module in training.student.modules()
    )
