"""Files of networks: they answer as the network does, say where it is from, or are not there."""

import copy
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators below
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.models import Network
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Bits, Channels
from trainables.models.masks import Masked, apply_masks, masks
from trainables.models.outputs import Outputs
from trainables.runtimes.onnx_file import export_onnx
from trainables.runtimes.pt2_file import PROVENANCE, export_pt2

SHAPE = (3, 32, 32)
STATISTICS = ((0.5, 0.4, 0.3), (0.2, 0.21, 0.22))
FAMILIES = [
    "resnet8-eca",
    "mobilenetv2-minus16_x0.5",
    "vgg11_gap_x0.125",
    "timm:resnet10t",
]
QUANTISED = torch.ops.quantized_decomposed


def trained(name: str, shape: tuple[int, int, int] = SHAPE) -> Network:
    """A network whose BatchNorms have seen something, so that folding them can go wrong."""
    torch.manual_seed(0)
    network = build(Blueprint(name), 10, shape)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        network(torch.randn(32, *shape))
    return network.eval()


def edited(*kinds: str) -> Network:
    network = trained("resnet8")
    if "channels" in kinds:
        kept = {"layer1.0.conv1": range(0, 16, 2), "layer1.0.bn1": range(0, 16, 2)}
        change = Channels.kept(outputs=kept, inputs={"layer1.0.conv2": range(0, 16, 2)})
        edit(network, change, SHAPE)
    if "masked" in kinds:
        edit(network, Masked(("layer2.0.conv1",)), SHAPE)
        masks(network)["layer2.0.conv1"][:, ::2] = False
        apply_masks(network)
    if "bits" in kinds:
        edit(network, Bits.of({"layer3.0.conv1": 4}), SHAPE)
    return network


def pixels(batch: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(256, (batch, *shape), dtype=torch.uint8, generator=generator)


def run(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    return torch.from_numpy(logits)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def within(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("name", [*FAMILIES, "channels+masked+bits"])
def test_onnx_runtime_answers_raw_pixels_as_the_network_does_normalised_ones(name, tmp_path):
    known = name in FAMILIES
    network = trained(name) if known else edited(*name.split("+"))
    before = copy.deepcopy(network.state_dict())
    file = tmp_path / "network.onnx"
    mean, std = STATISTICS
    worst = export_onnx(network, SHAPE, file, mean=mean, std=std, provenance={"sweep": "s"})
    assert worst <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    for batch in (1, 2, 7, 64):
        with torch.no_grad():
            expected = network(to_float(pixels(batch), mean, std)).logits
        assert expected.std() > 0.01
        assert within(run(file, pixels(batch)), expected)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_file_says_where_it_is_from_and_is_the_same_again(tmp_path):
    network = trained("wrn_10_0.5")
    facts = {"trial": "s-0", "config": json.dumps({"lr": 0.1}), "class_names": '["ä", "b"]'}
    mean, std = STATISTICS
    for name in ("a.onnx", "b.onnx"):
        export_onnx(network, SHAPE, tmp_path / name, mean=mean, std=std, provenance=facts)
    with torch.no_grad():
        expected = network(to_float(pixels(7), mean, std)).logits
    assert within(run(tmp_path / "a.onnx", pixels(7)), expected)
    data = (tmp_path / "a.onnx").read_bytes()
    assert data == (tmp_path / "b.onnx").read_bytes()
    model = onnx.load(tmp_path / "a.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props} == facts
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["logits"]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in sizes] == ["batch", *SHAPE]
    assert b"/trainables/" not in data  # no traces of this machine's folders


@pytest.mark.parametrize("raw", [True, False])
def test_torch_export_loads_again_with_provenance(raw, tmp_path):
    network = edited("channels", "masked", "bits")
    mean, std = STATISTICS if raw else (None, None)
    facts = {"trial": "s-0", "class_names": "[]"}
    for name in ("a.pt2", "b.pt2") if raw else ("a.pt2",):
        export_pt2(network, SHAPE, tmp_path / name, mean=mean, std=std, provenance=facts)
    data = (tmp_path / "a.pt2").read_bytes()
    assert all(file.read_bytes() == data for file in tmp_path.iterdir())
    assert b"/trainables/" not in data  # no traces of this machine's folders
    extra = {PROVENANCE: ""}
    module = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    assert json.loads(extra[PROVENANCE]) == facts | {"needs": ""}
    for batch in (1, 2, 7, 64):
        images = to_float(pixels(batch), *STATISTICS)
        with torch.no_grad():
            expected = network(images).logits
            assert within(module(pixels(batch) if raw else images.contiguous()), expected)


class Small(Network):
    """A network of what a test puts into it, on images of `SHAPE`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(16, 10)
        self.eval()

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        features = self.layers(images)
        embedding = features.mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, (features,))


class Counting(nn.Module):
    """Says something else every time: what was traced of it holds for no later call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


class Deciding(nn.Module):
    """Decides by values, which cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_a_file_that_disagrees_is_not_written(export, tmp_path):
    network = Small(nn.Conv2d(3, 16, 3), Counting())
    file = tmp_path / "network.out"
    file.write_text("older")
    with pytest.raises(UserError, match=r"disagrees.* a logit is -?[\d.]+ instead of -?[\d.]+"):
        export(network, SHAPE, file, provenance={})
    assert file.read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_what_cannot_be_traced_is_refused_in_a_line(export, tmp_path):
    with pytest.raises(UserError, match="network 'Small' cannot be exported") as caught:
        export(Small(nn.Conv2d(3, 16, 3), Deciding()), SHAPE, tmp_path / "x", provenance={})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_what_is_said_of_its_answers_decides(export, tmp_path):
    network = Small(nn.Conv2d(3, 16, 3))
    seen = []

    def refuse(answer: Any) -> None:
        images = torch.randn(3, *SHAPE)
        seen.append(within(answer(images), network(images).logits))
        raise UserError("not this one")

    with pytest.raises(UserError, match="not this one"):
        export(network, SHAPE, tmp_path / "x", provenance={}, accept=refuse)
    assert seen == [True]
    assert not list(tmp_path.iterdir())


class Int8Conv2d(nn.Module):
    """A convolution of 8-bit integers, with a scale for every output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.randint(-127, 128, (outputs, inputs, 3, 3), dtype=torch.int8)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", torch.rand(outputs) * 0.002 + 0.001)
        self.bias = nn.Parameter(torch.randn(outputs) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        numbers = (1 / 64, 128, 0, 255, torch.uint8)
        x = QUANTISED.quantize_per_tensor.default(x, *numbers)
        x = QUANTISED.dequantize_per_tensor.default(x, *numbers)
        weight = QUANTISED.dequantize_per_channel.default(
            self.weight, self.scale, None, 0, -128, 127, torch.int8
        )
        return F.conv2d(x, weight, self.bias)


def test_integer_modules_become_integer_arithmetic(tmp_path):
    network = Small(Int8Conv2d(3, 16), Int8Conv2d(16, 16), Int8Conv2d(16, 16))
    file = tmp_path / "int8.onnx"
    export_onnx(network, SHAPE, file, provenance={})
    model = onnx.load(file)
    assert operators(model)["DequantizeLinear"] == 6
    stored = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8]
    assert sorted(tuple(one.dims) for one in stored)[-3:] == [
        *((16, 3, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3))
    ]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert operators(onnx.load(tmp_path / "optimised.onnx"))["QLinearConv"] == 2
    with torch.no_grad():
        images = torch.randn(64, *SHAPE)
        expected = network(images).logits
    error = (run(file, images) - expected).square().mean().sqrt()
    assert error < 0.02 * expected.square().mean().sqrt()


def test_a_torch_file_of_integers_says_what_loads_it(tmp_path):
    file = tmp_path / "int8.pt2"
    export_pt2(Small(Int8Conv2d(3, 16)), SHAPE, file, provenance={})
    extra = {PROVENANCE: ""}
    torch.export.load(file, extra_files=extra)
    program = (
        f"{json.loads(extra[PROVENANCE])['needs']}\n"
        "import sys, torch\n"
        "module = torch.export.load(sys.argv[1]).module()\n"
        "print(tuple(module(torch.zeros(5, 3, 32, 32)).shape))"
    )
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "(5, 10)"


class Learned(nn.Conv2d):
    """A convolution with learned step sizes, which rounds in floating point."""

    def __init__(self, inputs: int, outputs: int, bits: int, signed: bool) -> None:
        super().__init__(inputs, outputs, 3)
        self.weight_bits = self.input_bits = bits
        self.input_signed = signed
        high = 2 ** (bits - signed) - 1
        self.input_step = nn.Parameter(torch.tensor([2.5 / high]))
        self.weight_step = nn.Parameter(torch.rand(outputs) * 0.1 + 0.5 / 2 ** (bits - 1))

    def forward(self, x: Tensor) -> Tensor:
        def rounded(v: Tensor, step: Tensor, bits: int, signed: bool) -> Tensor:
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            return (v / step).clamp(low, high).round() * step

        weight = rounded(self.weight, self.weight_step.view(-1, 1, 1, 1), self.weight_bits, True)
        x = rounded(x, self.input_step, self.input_bits, self.input_signed)
        return F.conv2d(x, weight, self.bias)


@pytest.mark.parametrize("bits", [8, 3])
def test_learned_step_sizes_become_integers(bits, tmp_path):
    network = Small(Learned(3, 16, bits, True), nn.ReLU(), Learned(16, 16, bits, False))
    file = tmp_path / "learned.onnx"
    export_onnx(network, SHAPE, file, provenance={})
    model = onnx.load(file)
    kinds = operators(model)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"], kinds["Round"]) == (2, 4, 0)
    stored = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8]
    whole = torch.tensor(onnx.numpy_helper.to_array(max(stored, key=lambda one: one.ByteSize())))
    assert len(whole.unique()) <= 2**bits
    with torch.no_grad():
        images = torch.randn(64, *SHAPE)
        expected = network(images).logits
    error = (run(file, images) - expected).square().mean().sqrt()
    assert error < (0.02 if bits == 8 else 1e-5) * expected.square().mean().sqrt()
