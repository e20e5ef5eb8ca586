"""Small networks that answer as trained ones do: statistics of their own, and logits apart."""

import torch
from torch import nn

from trainables.models import Network, create_model

SHAPE = (3, 32, 32)


def lively(network: Network, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Network:
    """With drawn BatchNorm statistics and weights, so that no layer is an identity by chance."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values, low in (
                    (module.running_var, 0.5),
                    (module.weight, 0.5),
                    (module.running_mean, -0.3),
                    (module.bias, -0.3),
                ):
                    values.copy_(torch.rand(len(values), generator=draw) + low)
        head = network.classifier
        head.weight.copy_(torch.randn(head.weight.shape, generator=draw))
        said = network.eval()(images(8, shape)).logits
        head.weight.mul_(3 / said.std())
    return network.train()


def made(name: str, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Network:
    """A lively network of the zoo, of 10 classes."""
    torch.manual_seed(seed)
    return lively(create_model(name, 10, shape), seed, shape)


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """Normalised images, each with an object of its own somewhere."""
    draw = torch.Generator().manual_seed(1)
    found = torch.randn(count, *shape, generator=draw)
    return nn.functional.avg_pool2d(found, 5, 1, 2) * 3
