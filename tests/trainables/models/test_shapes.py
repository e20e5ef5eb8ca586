"""What is done quicker where nothing but shapes comes of it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.shapes import shortcuts

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x.clone(), inplace=True),
    "relu6": F.relu6,
    "relu6 in place": lambda x: F.relu6(x.clone(), inplace=True),
    "silu": F.silu,
    "silu in place": lambda x: F.silu(x.clone(), inplace=True),
    "sum": lambda x: x + x,
    "sum with a factor": lambda x: torch.add(x, x, alpha=3),
    "sum with a number": lambda x: x + 1,
    "sum with a wider one": lambda x: x[:, :1] + x,
    "sum with a narrower one": lambda x: x + x[:, :, :1, :1],
    "sum of two that are both widened": lambda x: x[:, :1] + x[:, :, :1],
    "sum of float and integer": lambda x: x + torch.ones_like(x, dtype=torch.long),
    "sum of integer and float": lambda x: torch.ones_like(x, dtype=torch.long) + x,
    "sum of halves and floats": lambda x: x.half() + x,
    "batch norm": lambda x: F.batch_norm(x, x[0, :, 0, 0], x[0, :, 0, 0]),
    "batch norm of halves": lambda x: F.batch_norm(x.half(), x[0, :, 0, 0], x[0, :, 0, 0]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_shapes_and_types_are_those_of_the_operation(name: str) -> None:
    x = torch.rand(2, 3, 4, 5)
    expected = OPERATIONS[name](x)
    with shortcuts(x.to("meta")):
        found = OPERATIONS[name](x.to("meta"))
    assert (found.shape, found.dtype, found.stride()) == (
        expected.shape,
        expected.dtype,
        expected.stride(),
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_are_computed_as_ever(name: str) -> None:
    x = torch.rand(2, 3, 4, 5)
    with shortcuts(x):
        found = OPERATIONS[name](x)
    torch.testing.assert_close(found, OPERATIONS[name](x), rtol=0, atol=0)


def test_a_width_that_does_not_fit_is_refused() -> None:
    x = torch.rand(2, 3, 4, 5, device="meta")
    with shortcuts(x), pytest.raises(RuntimeError, match="broadcast"):
        x + x[:, :2]
    with shortcuts(x), pytest.raises(RuntimeError):
        F.batch_norm(x, torch.zeros(4), torch.ones(4))
