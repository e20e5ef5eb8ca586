"""Small networks that answer as trained ones do: statistics of their own, and logits apart."""

import copy
from typing import Any

import torch
from torch import nn

from trainables.models import Network, create_model

SHAPE = (3, 32, 32)


def lively(network: Network, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Network:
    """With drawn weights and statistics of BatchNorm, and logits that differ from image to image.

    The statistics are near those of some images. Variances are larger than those, since a deep
    network of random weights is chaos otherwise: rounding would be all that one sees of it.
    """
    draw = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, count: int) -> torch.Tensor:
        return torch.rand(count, generator=draw) * (high - low) + low

    pixels, head = images(16, shape), network.classifier
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=draw))
        for norm in norms:
            norm.weight.copy_(between(0.5, 1.5, len(norm.weight)))
            norm.bias.copy_(between(-0.3, 0.3, len(norm.bias)))
            norm.momentum = 1.0
        network.train()(pixels)
        for norm in norms:
            norm.momentum = 0.1
            norm.running_var *= between(1.1, 1.8, len(norm.weight))
            norm.running_mean += norm.running_var.sqrt() * between(-0.3, 0.3, len(norm.weight))
        logits = network.eval()(pixels).logits
        if logits.std(0).mean() > 0:
            head.weight *= 3 / logits.std(0).mean()
            head.bias -= network(pixels).logits.mean(0)
    return network.train()


def made(name: str, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Network:
    """A lively network of the zoo, of 10 classes."""
    torch.manual_seed(seed)
    return lively(create_model(name, 10, shape), seed, shape)


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """Normalised images, smooth as photographs are."""
    draw = torch.Generator().manual_seed(1)
    found = torch.randn(count, *shape, generator=draw)
    return nn.functional.avg_pool2d(found, 5, 1, 2) * 3


def state_of(network: Network) -> tuple[Any, ...]:
    """All that can be told of a network."""
    return (
        {key: value.clone() for key, value in network.state_dict().items()},
        [module.training for module in network.modules()],
        [weight.requires_grad for weight in network.parameters()],
        [None if w.grad is None else w.grad.clone() for w in network.parameters()],
        [
            (dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks))
            for m in network.modules()
        ],
        [vars(module).keys() for module in network.modules()],
        copy.deepcopy(network).eval()(images(2)).logits.detach(),
    )


def assert_as_it_was(network: Network, before: tuple[Any, ...]) -> None:
    """Held against what `state_of` said before."""
    weights, *flags, logits = before
    found, *now, said = state_of(network)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for one, other in zip(now, flags, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    assert torch.equal(said, logits)
