"""Every registered term, between networks of different shapes."""

import pytest
import torch
from every_term import OURS, TERMS, THEIRS, build

from trainables.methods.term import Term


@pytest.fixture(params=TERMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def term(name: str) -> Term:
    torch.manual_seed(1)
    return build(name, OURS, THEIRS)
