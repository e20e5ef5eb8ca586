"""Floating-point operations, as torch's own counter counts them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from trainables.models.flops import FlopCounter
from trainables.models.registry import create_model

NETWORKS = (
    "wrn_10_1",
    "resnet8-eca",
    "vgg13_x0.25",
    "mobilenetv2_x0.25",
    "timm:vit_tiny_patch16_224",
)


def counted(compute: Callable[[], object]) -> int:
    """By ours, after it was compared with torch's."""
    with FlopCounterMode(display=False) as theirs:
        compute()
    with FlopCounter() as ours:
        compute()
    assert ours.flops == theirs.get_total_flops()
    return ours.flops


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_forward_and_backward(name: str, device: str) -> None:
    with torch.device(device):
        model, images = create_model(name, 10, (3, 32, 32)), torch.zeros(2, 3, 32, 32)
    assert counted(lambda: model(images).logits.sum().backward()) > 2e6
    forward = counted(lambda: model.eval()(images))
    with torch.inference_mode():
        assert counted(lambda: model(images)) == forward


def products() -> dict[str, tuple[Callable[[], Tensor], int]]:
    """What is multiplied, and by how many operations, worked out by hand."""
    a, b = torch.rand(4, 5, 6), torch.rand(4, 6, 7)
    images, kernel = torch.rand(2, 3, 8, 8), torch.rand(6, 3, 3, 3)
    heads = torch.rand(2, 3, 9, 4)  # of 9 tokens, 4 wide
    return {
        "element by element": (lambda: (a * a).softmax(1).sum(), 0),
        "batched": (lambda: a @ b, 2 * 4 * 5 * 6 * 7),
        "linear": (lambda: F.linear(a, torch.rand(3, 6), torch.rand(3)), 2 * 4 * 5 * 6 * 3),
        "convolution": (lambda: F.conv2d(images, kernel), 2 * 2 * 6 * 36 * 27),
        "transposed": (lambda: F.conv_transpose2d(images, torch.rand(3, 5, 2, 2)), 2 * 2 * 64 * 60),
        "distances": (lambda: torch.cdist(a[:, :, :2], a[:, :, 2:4]), 0),
        "einsum": (lambda: torch.einsum("nij,nkj->ik", a, a), 2 * 4 * 5 * 5 * 6),
        "attention": (
            lambda: F.scaled_dot_product_attention(heads, heads, heads),
            2 * 2 * (2 * 3) * 9 * 9 * 4,
        ),
    }


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", products())
def test_products_by_hand(what: str, inference: bool) -> None:
    with torch.inference_mode(inference):
        compute, flops = products()[what]
        assert counted(compute) == flops


def test_modules_inside_branches_are_counted_as_torch_does() -> None:
    """Higher-order operations: of two branches the dearer one."""
    from torch._higher_order_ops.cond import cond_op

    x, weight = torch.rand(4, 4), torch.rand(4, 4)

    def twice(x: Tensor, w: Tensor) -> tuple[Tensor]:
        return (x @ w @ w,)

    def once(x: Tensor, w: Tensor) -> tuple[Tensor]:
        return (x @ w,)

    assert counted(lambda: cond_op(torch.tensor(False), twice, once, (x, weight))) == 2 * 2 * 4**3


def test_a_sum_goes_on_and_counters_do_not_share_it() -> None:
    layer, x = nn.Linear(8, 4), torch.rand(2, 8)
    with FlopCounter() as outer:
        layer(x)
        with FlopCounter() as inner:
            layer(x)
        layer(x)
    assert (inner.flops, outer.flops) == (128, 3 * 128)
    with outer:
        layer(x)
    assert outer.flops == 4 * 128
