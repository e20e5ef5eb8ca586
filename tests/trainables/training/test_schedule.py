"""The learning rate at its corners."""

import math

import pytest

from trainables.config import TrialConfig
from trainables.training.schedule import learning_rate


def config(**values: object) -> TrialConfig:
    return TrialConfig.from_mapping({"epochs": 40, "lr": 0.2, **values})


def test_constant() -> None:
    assert {learning_rate(config(schedule="constant"), epoch) for epoch in (0, 7.5, 39.99)} == {0.2}


def test_cosine() -> None:
    made = config(schedule="cosine")
    assert learning_rate(made, 0) == 0.2
    assert learning_rate(made, 10) == pytest.approx(0.1 * (1 + math.sqrt(0.5)))
    assert learning_rate(made, 20) == pytest.approx(0.1)
    assert learning_rate(made, 40) == pytest.approx(0, abs=1e-12)


def test_cosine_after_a_warm_up() -> None:
    made = config(schedule="cosine", warmup_epochs=8)
    rates = [learning_rate(made, epoch) for epoch in (0, 2, 4, 6, 8)]
    assert 0 < rates[0] < 0.01
    assert rates == sorted(rates)
    assert rates[2] == pytest.approx(0.1, rel=0.01)
    assert rates[4] == 0.2
    assert learning_rate(made, 8 - 1e-9) == pytest.approx(0.2)
    assert learning_rate(made, 24) == pytest.approx(0.1)  # half of the remaining 32 epochs
    assert learning_rate(made, 40) == pytest.approx(0, abs=1e-12)


def test_step() -> None:
    made = config(schedule="step", milestones="0.5,0.75", lr_decay=0.1)
    assert learning_rate(made, 0) == 0.2
    assert learning_rate(made, 19.999) == 0.2
    assert learning_rate(made, 20) == pytest.approx(0.02)
    assert learning_rate(made, 29.999) == pytest.approx(0.02)
    assert learning_rate(made, 30) == pytest.approx(0.002)


def test_the_default_steps_are_those_of_the_crd_protocol() -> None:
    # Tian et al., ICLR 2020: 240 epochs, times 0.1 after 150, 180 and 210.
    assert config(epochs=240, schedule="step").milestone_epochs() == (150, 180, 210)


@pytest.mark.parametrize("epochs", [1, 3, 7, 30, 100, 240])
def test_a_milestone_comes_with_the_first_step_of_its_epoch(epochs: int) -> None:
    for epoch in range(epochs):
        # As somebody writes it: enough digits for the epoch, none for floating point.
        made = config(epochs=epochs, schedule="step", milestones=f"{epoch / epochs:.12g}")
        assert learning_rate(made, epoch) == pytest.approx(0.02), epoch
        assert learning_rate(made, epoch - 0.01) == 0.2 or epoch == 0


def test_a_warm_up_longer_than_the_training_only_rises() -> None:
    made = config(schedule="cosine", epochs=2, warmup_epochs=5)
    rates = [learning_rate(made, step / 10) for step in range(20)]
    assert rates == sorted(rates)
    assert rates[-1] < 0.2 * 0.4
