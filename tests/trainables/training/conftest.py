"""Trials of one repeat."""

import functools
from collections.abc import Callable

import pytest

from trainables.config import TrialConfig

Quick = Callable[..., TrialConfig]


@pytest.fixture
def repeat(quick: Quick) -> Quick:
    """A trial of one repeat: four steps an epoch."""
    return functools.partial(quick, teacher="resnet8", epochs=1, train_fraction=0.1)
