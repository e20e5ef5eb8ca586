"""Whether an embedding is an average is read from the network, and agrees with the numbers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.models import create_model, output_shapes
from trainables.models.pooling import is_average


@pytest.mark.parametrize(
    ("name", "size", "pooled"),
    [
        ("wrn_10_0.5", 32, True),
        ("resnet8", 32, True),
        ("mobilenetv2_s2_x0.25", 32, True),
        ("vgg11_x0.125", 32, False),  # the maximum of a map of as many channels
        ("vgg11_x0.125", 64, False),  # all positions side by side
        ("torchvision:resnet18", 32, True),  # a map of one position
        ("torchvision:resnet18", 64, True),
        ("torchvision:densenet121", 64, True),  # its last ReLU works in place on the map
        ("torchvision:shufflenet_v2_x0_5", 64, True),
        ("timm:mobilenetv3_small_050", 64, False),  # one more layer behind the pooling
        ("torchvision:convnext_tiny", 64, False),  # a norm behind it
        ("timm:vit_tiny_patch16_224", 64, False),  # the class token, as wide as the patches
        ("timm:mixer_s32_224", 64, False),
    ],
)
def test_networks(name: str, size: int, pooled: bool) -> None:
    shape = (3, size, size)
    torch.manual_seed(0)
    model = create_model(name, 10, shape).eval().requires_grad_(False)
    images = torch.randn(2, *shape)
    with torch.no_grad():
        outputs = model(images)
    means = outputs.stages[-1].mean(dim=(2, 3))
    same = means.shape == outputs.embedding.shape
    same = same and torch.allclose(means, outputs.embedding, rtol=1e-4, atol=1e-5)
    assert same == pooled
    assert output_shapes(model, shape).pooled == pooled
    with torch.device("meta"):
        on_meta = create_model(name, 10, shape)
    assert output_shapes(on_meta, shape).pooled == pooled
    # As teachers and students are laid out in trainings.
    assert output_shapes(model.to(memory_format=torch.channels_last), shape).pooled == pooled


@pytest.mark.parametrize(
    ("pool", "average"),
    [
        (lambda maps: maps.mean((2, 3)), True),
        (lambda maps: maps.mean((-1, -2)), True),
        (lambda maps: maps.flatten(2).mean(2), True),
        (lambda maps: maps.mean((2, 3), keepdim=True).flatten(1), True),
        (lambda maps: F.adaptive_avg_pool2d(maps, 1).flatten(1), True),
        (lambda maps: F.avg_pool2d(maps, 4)[..., 0, 0] * 1, False),  # not understood
        (lambda maps: F.avg_pool2d(maps, 4).flatten(1), True),
        (lambda maps: F.avg_pool2d(maps, 3).flatten(1), False),  # of a part of the positions
        (lambda maps: F.adaptive_max_pool2d(maps, 1).flatten(1), False),
        (lambda maps: maps.relu().mean((2, 3)), False),
        (lambda maps: 2 * maps.mean((2, 3)), False),
        (lambda maps: maps.mean((1, 3)), False),
        (lambda maps: maps.mean(3).mean(2), False),  # an average in two steps: not understood
        (lambda maps: maps.mean((2, 3)) + maps.mean((2, 3)), False),
        (lambda maps: maps[:, :, 0, 0], False),
        (lambda maps: maps.detach().mean((2, 3)), False),
    ],
)
def test_ways_to_pool(pool: Callable[[Tensor], Tensor], average: bool) -> None:
    maps = torch.randn(2, 4, 4, 4, requires_grad=True) * 1
    assert is_average(pool(maps), maps) == average
