"""A finished student as a file: what it says of itself, and that it scores what its row says."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators below
import torch.nn.functional as F
from devkit import small
from torch import Tensor, nn

from trainables.compression.measure import size_bytes
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.exporting import dataset_of, export
from trainables.job import Job, Run
from trainables.models.blueprint import edit
from trainables.models.edits import Bits
from trainables.models.outputs import Network
from trainables.models.weights import Card
from trainables.students import read_student

CPU = torch.device("cpu")
QUANTISED = torch.ops.quantized_decomposed


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, Network]:
    """A student that knows the digits."""
    results = str(tmp_path_factory.mktemp("results"))
    values = {"dataset": "digits", "student": "wrn_10_0.5", "epochs": 2, "batch_size": 32}
    config = TrialConfig.from_mapping(values | {"lr": 0.1, "precision": "fp32"})
    job = Job(config=config.to_dict(), sweep="s", trial_id="s-0", results=results)
    run = Run(job, CPU)
    while not run.finished:
        run.run_epoch()
    run.row("completed")
    card, network = read_student(results, "s", "s-0")
    assert card.test_acc is not None
    assert card.test_acc > 0.6
    return card, network


def accuracy(file: Path, dataset: Dataset) -> float:
    """Of a file that takes raw pixels, by ONNX Runtime alone."""
    images = dataset.read_test()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.images.numpy()})
    return float((logits.argmax(1) == images.labels.numpy()).mean())


def test_a_file_scores_what_the_row_says_and_tells_what_it_is(student, digits, tmp_path):
    card, network = student
    said: list[str] = []
    file = tmp_path / "s.onnx"
    done = export(card, network, file, "onnx", sweep="s", normalise=True, say=said.append)
    assert done.tested == pytest.approx(card.test_acc)
    assert accuracy(file, digits) == pytest.approx(card.test_acc)
    assert (done.unchecked, done.size_bytes, done.packed_bytes) == ("", file.stat().st_size, None)
    assert any("359 test images of digits" in line for line in said)
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert (facts["sweep"], facts["trial"]) == ("s", "s-0")
    assert facts["input"].startswith("uint8 [batch, 1, 8, 8]: pixels from 0 to 255")
    assert TrialConfig.from_mapping(json.loads(facts["config"])).student == "wrn_10_0.5"
    assert json.loads(facts["blueprint"]) == {"model": "wrn_10_0.5", "edits": []}
    assert facts["data_fingerprint"] == digits.fingerprint
    assert json.loads(facts["class_names"]) == list(digits.classes)
    assert json.loads(facts["mean"]) == list(digits.mean)
    assert json.loads(facts["test_acc"]) == card.test_acc
    assert json.loads(facts["image_shape"]) == [1, 8, 8]


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_file_that_scores_otherwise_is_refused_with_both_numbers(student, kind, tmp_path):
    card, network = student
    assert card.test_acc is not None
    other = replace(card, test_acc=card.test_acc - 0.006, test_score=card.test_acc - 0.006)
    with pytest.raises(UserError) as caught:
        export(other, network, tmp_path / f"s.{kind}", kind)
    assert f"scores {100 * card.test_acc:.2f} % on the test set of digits" in str(caught.value)
    assert f"s-0 {100 * card.test_acc - 0.6:.2f} %" in str(caught.value)
    assert not list(tmp_path.iterdir())
    if kind == "pt2":
        near = replace(card, test_acc=card.test_acc - 0.004, test_score=card.test_acc - 0.004)
        assert export(near, network, tmp_path / "s.pt2", kind).tested == card.test_acc


class Int8Conv2d(nn.Module):
    """A convolution of integers, as 8 bits of its weights and its inputs make it."""

    def __init__(self, layer: nn.Conv2d, largest: float) -> None:
        super().__init__()
        self.layer = layer
        scale = layer.weight.detach().abs().flatten(1).amax(1) / 127
        whole = (layer.weight.detach() / scale.view(-1, 1, 1, 1)).round()
        self.register_buffer("whole", whole.to(torch.int8))
        self.register_buffer("scale", scale)
        self.numbers = (largest / 127, 128, 0, 255, torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        x = QUANTISED.quantize_per_tensor.default(x, *self.numbers)
        x = QUANTISED.dequantize_per_tensor.default(x, *self.numbers)
        weight = QUANTISED.dequantize_per_channel.default(
            self.whole, self.scale, None, 0, -128, 127, torch.int8
        )
        return F.conv2d(x, weight, None, self.layer.stride, self.layer.padding)


def quantised(network: Network, dataset: Dataset) -> Network:
    """With integers in its convolutions, calibrated on what they are fed in training."""
    made = copy.deepcopy(network).eval()
    layers = {name: m for name, m in made.named_modules() if isinstance(m, nn.Conv2d)}
    largest: dict[str, float] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: largest.update({name: inputs[0].abs().max().item()})
        )
        for name, layer in layers.items()
    ]
    made(to_float(dataset.train.images[:256], dataset.mean, dataset.std))
    for handle in handles:
        handle.remove()
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(parent), leaf, Int8Conv2d(layer, largest[name]))
    return made


@torch.no_grad()
def test_an_integer_file_fed_raw_pixels_scores_what_its_row_says(
    student: tuple[Card, Network], digits: Dataset, tmp_path: Path
) -> None:
    """Calibrated behind the normalisation that is in the file, as it is in training."""
    card, network = student
    small = quantised(network, digits)
    test = digits.read_test()
    logits = small(to_float(test.images, digits.mean, digits.std)).logits
    acc = (logits.argmax(1) == test.labels).float().mean().item()
    own = replace(card, test_acc=acc, test_score=acc)
    file = tmp_path / "int8.onnx"
    done = export(own, small, file, "onnx", normalise=True)
    assert accuracy(file, digits) == done.tested
    assert done.tested == pytest.approx(acc, abs=0.005)
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    wrong = replace(own, mean=(0.0,), std=(1 / 255,))  # normalised otherwise than it was calibrated
    with pytest.raises(
        UserError, match=r"scores [\d.]+ % on the test set of digits, and s-0 [\d.]+ %"
    ):
        export(wrong, small, tmp_path / "wrong.onnx", "onnx", normalise=True)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_the_size_of_a_networks_images_is_that_of_its_card(student, tmp_path: Path) -> None:
    """Where a user chooses it; 8x8 pixels of a digit are not a choice."""
    card, _ = student
    assert dataset_of(card, None).image_shape == (1, 8, 8)
    kit = small(tmp_path)
    found = load_dataset("voc2012", kit.folder, image_size=24)
    shape, print_ = found.image_shape, found.fingerprint
    card = replace(card, dataset="voc2012", image_shape=shape, data_fingerprint=print_)
    assert dataset_of(card, str(kit.folder)).image_shape == (3, 24, 24)


def test_it_is_said_where_the_test_set_is_not_there(
    student: tuple[Card, Network], tmp_path: Path
) -> None:
    card, network = student
    other = replace(card, data_fingerprint="0" * 64)
    done = export(other, network, tmp_path / "s.pt2", "pt2")
    assert done.tested is None
    assert "is not the one that s-0 was trained on" in done.unchecked
    with pytest.raises(UserError, match="is not the one that s-0 was trained on"):
        export(other, network, tmp_path / "t.pt2", "pt2", must_test=True)
    assert not (tmp_path / "t.pt2").exists()


def test_weights_of_few_bits_are_said_to_be_floats_in_the_file(
    student: tuple[Card, Network], tmp_path: Path
) -> None:
    card, network = student
    packed = copy.deepcopy(network)
    edit(packed, Bits.of({"conv1": 4}), card.image_shape)
    done = export(card, packed, tmp_path / "s.pt2", "pt2")
    assert done.packed_bytes == size_bytes(packed)
