"""Efficient channel attention: the module, where it stands, and what it costs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import EcaModule
from torch import nn

from trainables.compression.measure import count_macs, count_params
from trainables.files import open_folder
from trainables.models import Network, create_model, output_shapes
from trainables.models.eca import ECA, VARIANTS, AdditiveECA, kernel_size
from trainables.models.weights import Card, read_network, save_network

CIFAR = (3, 32, 32)


def on_meta(name: str) -> Network:
    with torch.device("meta"):
        return create_model(name, 10, CIFAR)


def places(model: nn.Module) -> dict[str, tuple[type, int]]:
    """Path, kind and kernel of every attention in a network."""
    return {
        path: (type(module), module.conv.kernel_size[0])
        for path, module in model.named_modules()
        if isinstance(module, ECA)
    }


@pytest.mark.parametrize(
    ("channels", "kernel"),
    [(8, 3), (64, 3), (127, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2047, 5), (2048, 7)],
)
def test_kernels_of_the_paper(channels: int, kernel: int) -> None:
    assert kernel_size(channels) == kernel


def test_kernels_of_timm() -> None:
    """Also below 8 channels, where the paper's rule would leave every channel alone."""
    for channels in range(1, 2100):
        assert kernel_size(channels) == EcaModule(channels).conv.kernel_size[0], channels


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 16, 5, 4), (2, 256, 1, 1)])
def test_is_timms_module(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = EcaModule(shape[1])
    ours = ECA(kernel_size(shape[1]))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(*shape)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("kind", [ECA, AdditiveECA])
@pytest.mark.parametrize("channels", [1, 2, 3, 40])
def test_by_hand(kind: type[ECA], channels: int) -> None:
    x = np.random.default_rng(channels).standard_normal((2, channels, 4, 3))
    w = np.array([0.5, -1.0, 2.0])
    module = (ECA(3) if kind is ECA else AdditiveECA()).double()
    with torch.no_grad():
        module.conv.weight.copy_(torch.from_numpy(w))
    means = np.pad(x.mean(axis=(2, 3)), ((0, 0), (1, 1)))
    mixed = w[0] * means[:, :-2] + w[1] * means[:, 1:-1] + w[2] * means[:, 2:]
    gate = (1 / (1 + np.exp(-mixed)))[:, :, None, None]
    expected = x * gate if kind is ECA else x + gate
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)


def test_in_every_block() -> None:
    found = places(on_meta("resnet50-eca"))
    assert len(found) == 3 + 4 + 6 + 3
    assert all(path.endswith(".eca") for path in found)
    kernels = {path[:6]: kernel for path, (_, kernel) in found.items()}
    assert kernels == {"layer1": 5, "layer2": 5, "layer3": 5, "layer4": 7}
    kernels = {path[:6]: kernel for path, (_, kernel) in places(on_meta("resnet18-eca")).items()}
    assert kernels == {"layer1": 3, "layer2": 5, "layer3": 5, "layer4": 5}


@pytest.mark.parametrize(
    ("name", "place", "kernel"),
    [
        ("resnet18-eca_last", "layer4.0.eca", 5),
        ("resnet50-eca_last", "layer4.0.eca", 7),
        ("resnet56-eca_last", "layer3.0.eca", 3),
        ("resnet18-eca_last_x0.125", "layer4.0.eca", 3),
    ],
)
def test_in_the_block_of_the_last_shortcut(name: str, place: str, kernel: int) -> None:
    assert places(on_meta(name)) == {place: (ECA, kernel)}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet18-eca_parallel", 2), ("resnet50-eca_parallel", 3), ("resnet56-eca_parallel", 9)],
)
def test_on_the_shortcuts_of_the_first_stage(name: str, blocks: int) -> None:
    expected = {f"layer1.{i}.downsample.1": (AdditiveECA, 3) for i in range(blocks)}
    assert places(on_meta(name)) == expected


WIDTHS = {18: (64, 128, 256, 512), 34: (64, 128, 256, 512), 50: (256, 512, 1024, 2048)}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


@pytest.mark.parametrize("depth", WIDTHS)
def test_what_it_costs(depth: int) -> None:
    """k parameters and k · C multiplications per module, and nothing else."""
    params, macs = (count(on_meta(f"resnet{depth}")) for count in (count_params, macs_of))
    stages = list(zip(WIDTHS[depth], BLOCKS[depth], strict=True))
    kernels = {channels: int(abs(np.log2(channels) / 2 + 1 / 2)) for channels, _ in stages}
    kernels = {channels: k if k % 2 else k + 1 for channels, k in kernels.items()}
    last, first = stages[-1][0], stages[0]
    expected = {
        "-eca": [(kernels[channels], channels, blocks) for channels, blocks in stages],
        "-eca_last": [(kernels[last], last, 1)],
        "-eca_parallel": [(3, first[0], first[1])],
    }
    assert expected.keys() == VARIANTS.keys()
    for variant, modules in expected.items():
        model = on_meta(f"resnet{depth}{variant}")
        assert count_params(model) - params == sum(k * n for k, _, n in modules)
        assert macs_of(model) - macs == sum(k * channels * n for k, channels, n in modules)


def macs_of(model: nn.Module) -> int:
    return count_macs(model, CIFAR)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("base", ["resnet20", "resnet20_zeropad", "resnet32x4", "resnet50"])
def test_the_attention_changes_no_shape(base: str, variant: str) -> None:
    plain = output_shapes(on_meta(base), CIFAR)._replace(features={})
    found = output_shapes(on_meta(f"{base}{variant}"), CIFAR)
    assert found._replace(features={}) == plain  # it has modules of its own


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_on_disk(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = Card(
        name="attentive",
        model=f"resnet8{variant}_x0.5",
        dataset="digits",
        data_fingerprint="d" * 64,
        classes=10,
        image_shape=(1, 8, 8),
        mean=(0.3,),
        std=(0.4,),
        test_acc=0.5,
        params=1,
        macs=2,
        origin="{}",
    )
    images = torch.randn(4, 1, 8, 8)
    written = create_model(card.model, 10, (1, 8, 8))
    written(images)
    folder = open_folder(tmp_path)
    save_network(folder, "net.safetensors", written, card)
    found, read = read_network(folder, "net.safetensors")
    assert found.model == card.model
    assert places(read) == places(written) != {}
    torch.testing.assert_close(
        read.eval()(images).logits, written.eval()(images).logits, rtol=0, atol=0
    )
