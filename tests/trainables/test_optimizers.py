"""The update rules by hand: every setting that belongs to one has its effect."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.optimizers.registry import OPTIMIZERS

CPU = torch.device("cpu")
START = torch.tensor([2.0, -1.0])
SETTINGS = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3}


def stepped(gradients: list[list[float]], **changes: object) -> Tensor:
    """The weights after a step with each of the gradients."""
    weight = nn.Parameter(START.clone())
    config = TrialConfig.from_mapping({**SETTINGS, **changes})
    optimizer = OPTIMIZERS[config.optimizer](config, [weight], CPU)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd(momentum: float, nesterov: bool) -> None:
    if nesterov and not momentum:
        pytest.skip("Nesterov's form is one of the momentum")
    gradients = [[1.0, 0.5], [-2.0, 0.25]]
    weight, velocity = START.clone(), torch.zeros(2)
    for gradient in gradients:
        slope = torch.tensor(gradient) + 0.3 * weight
        velocity = momentum * velocity + slope
        weight = weight - 0.1 * (slope + momentum * velocity if nesterov else velocity)
    found = stepped(gradients, optimizer="sgd", momentum=momentum, nesterov=nesterov)
    torch.testing.assert_close(found, weight)


@pytest.mark.parametrize(
    ("optimizer", "decayed"),
    [
        # The penalty is a gradient like any other, whose size Adam's first step does not see.
        ("adam", lambda weight: weight - 0.1 * weight.sign()),
        ("adamw", lambda weight: weight * (1 - 0.1 * 0.3)),
    ],
)
def test_the_weight_decay_of_adam(optimizer: str, decayed: Callable[[Tensor], Tensor]) -> None:
    still = [[0.0, 0.0]]
    torch.testing.assert_close(stepped(still, optimizer=optimizer), decayed(START))
    torch.testing.assert_close(stepped(still, optimizer=optimizer, weight_decay=0.0), START)


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    for optimizer in ("adam", "adamw"):
        found = stepped([[3.0, -0.01]], optimizer=optimizer, weight_decay=0.0)
        torch.testing.assert_close(found, START - 0.1 * torch.tensor([1.0, -1.0]))
