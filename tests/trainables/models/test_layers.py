"""Pieces of the zoo's networks."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from trainables.models.layers import Subsampling, conv


@pytest.mark.parametrize("size", [8, 7])
def test_subsampling_is_the_strided_convolution(size: int) -> None:
    torch.manual_seed(0)
    narrow = conv(4, 6, 1, 2)
    assert isinstance(narrow, Subsampling)
    usual = nn.Conv2d(4, 6, 1, 2, bias=False)
    usual.load_state_dict(narrow.state_dict())
    results = []
    for layer in (narrow, usual):
        images = torch.linspace(-1, 1, 2 * 4 * size**2).view(2, 4, size, size).requires_grad_()
        found = layer(images)
        (found**2).sum().backward()
        results.append((found, images.grad, layer.weight.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("inputs", "kernel", "stride"), [(16, 1, 2), (4, 1, 1), (4, 3, 2)])
def test_other_convolutions_are_as_usual(inputs: int, kernel: int, stride: int) -> None:
    assert type(conv(inputs, 16, kernel, stride)) is nn.Conv2d


TRAINING = """
import torch
from trainables.models.registry import create_model
torch.set_num_threads(1)
for name in ("wrn_16_0.25", "resnet8x4_x0.1", "resnet18_x0.05"):
    network = create_model(name, 10, (3, 16, 16)).to(memory_format=torch.channels_last)
    images = torch.rand(32, 3, 16, 16).to(memory_format=torch.channels_last)
    for _ in range(20):
        network(images).logits.square().sum().backward()
    print(name)
"""


def test_narrow_networks_train_in_channels_last() -> None:
    """In a process of its own, which what is wrong there would end."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["wrn_16_0.25", "resnet8x4_x0.1", "resnet18_x0.05"]
