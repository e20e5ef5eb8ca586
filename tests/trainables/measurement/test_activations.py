"""Activation memory against what one finds by hand: what lives beside what, and until when."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.measurement.activations import activation_bytes, activation_bytes_of
from trainables.models.blueprint import Blueprint, build
from trainables.models.outputs import Network, Outputs

IMAGE = (3, 8, 8)
MAP = 4 * 64
"""Bytes of one channel of 8 x 8 float32."""


class Small(Network):
    """Layers, then an average of every channel, which are the logits."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def body(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logits' feature map, and what else is handed out."""
        for layer in self.layers:
            x = layer(x)
        return (x,)

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        last, *others = self.body(images)
        return Outputs(last.mean((2, 3)), last, tuple(others))


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def test_a_chain_of_convolutions_needs_its_widest_pair() -> None:
    assert activation_bytes(Small(conv(3, 8), conv(8, 16), conv(16, 2)), IMAGE) == 24 * MAP
    assert activation_bytes(Small(conv(3, 16), conv(16, 2)), IMAGE) == 19 * MAP
    assert activation_bytes(Small(conv(3, 2)), IMAGE) == 5 * MAP


@pytest.mark.parametrize(("inplace", "maps"), [(True, 3 + 8), (False, 8 + 8)])
def test_an_operation_in_place_takes_no_memory(inplace: bool, maps: int) -> None:
    assert activation_bytes(Small(conv(3, 8), nn.ReLU(inplace=inplace)), IMAGE) == maps * MAP


def test_views_share_their_memory() -> None:
    class Viewing(Small):
        def body(self, x: Tensor) -> tuple[Tensor, ...]:
            x = self.layers[0](x)
            first, second = x.view(1, 8, 64)[:, :4], x.transpose(2, 3)[:, 4:]
            return (first.reshape(1, 4, 8, 8) + second,)

    # The image and 8 maps; then 8 maps and the sum of their halves.
    assert activation_bytes(Viewing(conv(3, 8)), IMAGE) == 12 * MAP


def test_a_shortcut_lives_until_it_is_added() -> None:
    class Residual(Small):
        def body(self, x: Tensor) -> tuple[Tensor, ...]:
            stem, first, second = self.layers
            x = stem(x)
            return (F.relu(second(F.relu(first(x))) + x),)

    # The shortcut beside a convolution's input and output: three times 8 maps.
    assert activation_bytes(Residual(conv(3, 8), conv(8, 8), conv(8, 8)), IMAGE) == 24 * MAP
    # A narrow place in the block: shortcut, 2 maps, and 8; then shortcut, 8, and their sum.
    assert activation_bytes(Residual(conv(3, 8), conv(8, 2), conv(2, 8)), IMAGE) == 24 * MAP
    # A wide one: shortcut, and 32 maps twice, before and behind the ReLU.
    assert activation_bytes(Residual(conv(3, 8), conv(8, 32), conv(32, 8)), IMAGE) == 72 * MAP


def test_what_the_logits_do_not_follow_from_is_not_kept() -> None:
    class Showing(Small):
        def body(self, x: Tensor) -> tuple[Tensor, ...]:
            first, second, third = self.layers
            early = first(x)
            last = third(second(early))
            return last, early, torch.cat([early, early, early], 1)

    # 2 maps and 16: the early ones have been read by then, as far as the logits need them.
    assert activation_bytes(Showing(conv(3, 8), conv(8, 2), conv(2, 16)), IMAGE) == 18 * MAP


def test_what_follows_from_weights_alone_is_a_weight() -> None:
    class Rounding(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, (self.weight * 8).round() / 8, self.bias)

    layer = Rounding(3, 64, 1)
    layer.offset = torch.zeros(64)  # type: ignore[assignment]  # held, not registered
    assert activation_bytes(Small(layer), IMAGE) == 67 * MAP


def test_the_image_counts_as_long_as_it_is_needed() -> None:
    class Dense(Small):
        def body(self, x: Tensor) -> tuple[Tensor, ...]:
            return (torch.cat([x, self.layers[0](x)], 1),)

    assert activation_bytes(Dense(conv(3, 5)), IMAGE) == 16 * MAP


def test_the_number_follows_from_the_network_alone() -> None:
    """Also with weights, in whatever layout and mode: the same as without memory."""
    blueprint = Blueprint("resnet8")
    found = activation_bytes_of(blueprint, 10, (3, 32, 32))
    model = build(blueprint, 10, (3, 32, 32)).train()
    assert activation_bytes(model, (3, 32, 32)) == found
    assert all(module.training for module in model.modules())
    assert activation_bytes(model.to(memory_format=torch.channels_last), (3, 32, 32)) == found
    # Three times 16 maps of 32 x 32 float32 in the first stage.
    assert found == 3 * 16 * 4 * 32 * 32


def test_half_as_many_bytes_a_value_need_half_of_it() -> None:
    model = Small(conv(3, 8), conv(8, 16))
    assert activation_bytes(model.to(torch.bfloat16), IMAGE) == 24 * MAP // 2
