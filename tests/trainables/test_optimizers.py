"""The update rules by hand: every setting that belongs to one has its effect."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.optimizers.making import make_optimizer
from trainables.optimizers.rule import Weight

CPU = torch.device("cpu")
START = torch.tensor([2.0, -1.0])
SETTINGS = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3}


def optimizer_of(weights: Sequence[Weight], **values: object) -> torch.optim.Optimizer:
    return make_optimizer(TrialConfig.from_mapping({**SETTINGS, **values}), weights, CPU)


def stepped(
    gradients: list[Any], start: Tensor = START, blocks: int = 0, **changes: object
) -> Tensor:
    """The weights after a step with each of the gradients."""
    weight = nn.Parameter(start.clone())
    optimizer = optimizer_of([Weight("weight", weight, blocks)], **changes)
    for gradient in gradients:
        weight.grad = torch.as_tensor(gradient, dtype=torch.float32).reshape(start.shape).clone()
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


def adam_by_hand(gradients: list[list[float]], beta1: float, beta2: float, eps: float) -> Tensor:
    """Algorithm 1 of the paper, without decay."""
    weight, mean, squares = np.array(START.tolist()), np.zeros(2), np.zeros(2)
    for step, slope in enumerate(map(np.array, gradients), start=1):
        mean = beta1 * mean + (1 - beta1) * slope
        squares = beta2 * squares + (1 - beta2) * slope**2
        root = np.sqrt(squares / (1 - beta2**step))
        weight = weight - 0.1 * mean / (1 - beta1**step) / (root + eps)
    return torch.tensor(weight, dtype=torch.float32)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("values", [(0.9, 0.999, 1e-8), (0.5, 0.7, 0.01)])
def test_the_settings_of_adam(optimizer: str, values: tuple[float, float, float]) -> None:
    gradients = [[3.0, -0.01], [-1.0, 0.02]]
    keys = ("optimizer.beta1", "optimizer.beta2", "optimizer.eps")
    settings: dict[str, Any] = dict(zip(keys, values, strict=True))
    found = stepped(gradients, optimizer=optimizer, weight_decay=0.0, **settings)
    torch.testing.assert_close(found, adam_by_hand(gradients, *values))


# Muon


def newton_schulz(matrix: np.ndarray, steps: int) -> np.ndarray:
    """The quintic of the author's code, applied to the singular values."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(matrix)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("scale", "size"), [("spectral", 2.0**0.5), ("rms", 0.2 * 24**0.5)])
def test_muon(nesterov: bool, scale: str, size: float) -> None:
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=(24, 3, 2, 2)), draw.normal(size=(3, 24, 3, 2, 2))
    weight, mean = start.reshape(24, 12), np.zeros((24, 12))
    for slope in gradients.reshape(3, 24, 12):
        mean = 0.9 * mean + 0.1 * slope
        ahead = 0.1 * slope + 0.9 * mean if nesterov else mean
        weight = weight * (1 - 0.1 * 0.3) - 0.1 * size * newton_schulz(ahead, 4)
    found = stepped(
        [*gradients],
        torch.tensor(start, dtype=torch.float32),
        1,
        optimizer="muon",
        **{"optimizer.momentum": 0.9, "optimizer.nesterov": nesterov, "optimizer.scale": scale},
        **{"optimizer.newton_schulz_steps": 4},
    )
    np.testing.assert_allclose(found.reshape(24, 12).numpy(), weight, atol=1e-4)


def test_what_muon_leaves_to_adamw() -> None:
    """At a share of the rate, which it has from the groups as a learner sets them."""
    gradients = [[3.0, -0.01], [-1.0, 0.02]]
    weight = nn.Parameter(START.clone())
    settings = {"optimizer.beta1": 0.5, "optimizer.beta2": 0.7, "optimizer.eps": 0.01}
    ratio = {"optimizer.adamw_lr_ratio": 0.25}
    optimizer = optimizer_of(
        [Weight("bias", weight)], optimizer="muon", lr=4.0, **settings, **ratio
    )
    for gradient in gradients:
        for group in optimizer.param_groups:
            group["lr"] = 0.4 * group.get("lr_ratio", 1.0)
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    expected = stepped(gradients, optimizer="adamw", lr=0.1, **settings)
    torch.testing.assert_close(weight.detach(), expected)


def test_updates_of_muon_have_singular_values_of_about_one() -> None:
    """Of a kernel as 32 x 144; of one in groups, by group: 4 of 8 x 36."""
    torch.manual_seed(0)
    start = torch.zeros(32, 16, 3, 3)
    for blocks in (1, 4):
        shape = (32, 16 // blocks, 3, 3)
        found = stepped([torch.randn(shape)], start[:, : shape[1]], blocks, optimizer="muon", lr=1)
        for matrix in found.reshape(blocks, 32 // blocks, -1):
            values = torch.linalg.svdvals(matrix)
            assert 0.6 < values.min() < values.max() < 1.3


def test_no_two_matrices_become_one() -> None:
    """Layers of one shape, and the groups of a convolution, are each as if they were alone."""
    torch.manual_seed(0)
    starts, gradients = torch.randn(2, 8, 4, 3, 3), torch.randn(2, 8, 4, 3, 3)
    gradients[1] *= 100
    weights = [nn.Parameter(start.clone()) for start in starts]
    optimizer = optimizer_of(
        [Weight(str(n), w, 1) for n, w in enumerate(weights)], optimizer="muon"
    )
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()
    for weight, start, gradient in zip(weights, starts, gradients, strict=True):
        alone = stepped([gradient], start, 1, optimizer="muon")
        assert torch.equal(weight.detach(), alone)
    grouped = stepped([gradients.flatten(0, 1)], starts.flatten(0, 1), 2, optimizer="muon")
    torch.testing.assert_close(grouped, torch.cat([weight.detach() for weight in weights]))


# Shampoo


def root(matrix: np.ndarray, order: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values ** (-1 / order)) @ vectors.T


@pytest.mark.parametrize("every", [1, 2])
def test_shampoo_of_three_axes(every: int) -> None:
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=(3, 2, 4)), draw.normal(size=(5, 3, 2, 4))
    weight, mean = start, np.zeros_like(start)
    sums = [0.1 * np.eye(length) for length in start.shape]
    for step, gradient in enumerate(gradients, start=1):
        slope = gradient + 0.3 * weight
        mean = 0.8 * mean + 0.2 * slope
        for axis, length in enumerate(start.shape):
            unfolded = np.moveaxis(slope, axis, 0).reshape(length, -1)
            sums[axis] = sums[axis] + unfolded @ unfolded.T
        if step <= every or step % every == 0:
            roots = [root(one, 6) for one in sums]
        weight = weight - 0.1 * np.einsum("abc,ax,by,cz->xyz", mean, *roots)
    found = stepped(
        [*gradients],
        torch.tensor(start, dtype=torch.float32).reshape(3, 2, 1, 4),  # an axis of 1 is none
        optimizer="shampoo",
        **{"optimizer.momentum": 0.8, "optimizer.eps": 0.1, "optimizer.precondition_every": every},
    )
    np.testing.assert_allclose(found.reshape(3, 2, 4).numpy(), weight, atol=1e-4)


def test_shampoo_of_long_axes_is_diagonal() -> None:
    """Of two axes, one of them longer than max_dim; alone and without momentum: AdaGrad."""
    gradient = torch.tensor([[3.0, 4.0, 0.0]])
    settings = {"optimizer.momentum": 0.0, "optimizer.max_dim": 2, "weight_decay": 0.0}
    found = stepped([gradient], torch.zeros(1, 3), optimizer="shampoo", **settings)
    torch.testing.assert_close(found, torch.tensor([[-0.1, -0.1, 0.0]]), atol=1e-4, rtol=0)
    wide = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    found = stepped([wide], torch.zeros(2, 3), optimizer="shampoo", **settings)
    # L = diag(1, 4) and R = diag(1, 4, 0) by their fourth roots: 2 / (4 * 4) ** (1 / 4) = 1.
    torch.testing.assert_close(found, -0.1 * wide.sign(), atol=1e-4, rtol=0)


# SOAP


def test_soap() -> None:
    """Two updates in the basis of the first gradient, which itself moves nothing."""
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=(3, 4)), draw.normal(size=(3, 3, 4))
    first = gradients[0]
    left, right = (np.linalg.eigh(one)[1] for one in (first @ first.T, first.T @ first))
    weight, mean, squares = start, np.zeros((3, 4)), np.zeros((3, 4))
    for step, gradient in enumerate(gradients[1:], start=1):
        mean = 0.9 * mean + 0.1 * gradient
        squares = 0.8 * squares + 0.2 * (left.T @ gradient @ right) ** 2
        rate = 0.1 * np.sqrt(1 - 0.8**step) / (1 - 0.9**step)
        update = left @ ((left.T @ mean @ right) / (np.sqrt(squares) + 1e-3)) @ right.T
        weight = (weight - rate * update) * (1 - 0.1 * 0.3)
    settings = {"optimizer.beta1": 0.9, "optimizer.beta2": 0.8, "optimizer.eps": 1e-3}
    found = stepped(
        [*gradients], torch.tensor(start, dtype=torch.float32), optimizer="soap", **settings
    )
    # The basis of the null space of a 4 x 4 matrix of rank 3 is unique, but for signs.
    np.testing.assert_allclose(found.numpy(), weight, atol=1e-4)
