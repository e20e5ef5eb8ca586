"""Compiled code: the network's answers, in integers where it has them, and what it refuses."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from trainables.compression.chain import Chain
from trainables.compression.registry import resolve_chain
from trainables.compression.step import Scene
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.grid import Grid
from trainables.models.int8 import Int8, Int8Layer, Quantised
from trainables.models.outputs import Network
from trainables.runtimes.choice import runtime_for
from trainables.runtimes.compiled import Compiled
from trainables.runtimes.registry import RUNTIMES

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    Compiled().unavailable() is not None, reason=str(Compiled().unavailable())
)


def quantised(network: Network, images: Tensor, chain: str = "int8") -> Network:
    """Behind all moments of a chain, with ranges from these images."""
    made, target = copy.deepcopy(network).eval(), torch.zeros(len(images), dtype=torch.int64)
    shape = (images.shape[1], images.shape[2], images.shape[3])

    def batches(count):
        return iter([(images[:count], target[:count])])

    steps = Chain(chain, resolve_chain(chain, {"qat": 8} if "qat" in chain else {})).steps
    for moment, number in sorted((m, n) for n, step in enumerate(steps) for m in step.moments):
        scene = Scene(made, batches, torch.Generator(), shape, CPU)
        with torch.no_grad():
            for change in steps[number].at(moment, scene):
                edit(made, change, shape)
    return made.eval()


def small(edits: tuple[Int8, ...] = ()) -> Network:
    torch.manual_seed(0)
    return build(Blueprint("resnet8", edits), 5, (3, 16, 16)).eval()


INTEGERS = Int8.of({"conv1": Quantised(Grid(0.02, 128), "bn1")}, {})


def test_a_machine_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert Compiled().unavailable() == "no C++ compiler (no-such-compiler)"
    with pytest.raises(UserError, match=r"runtime 'compiled': no C\+\+ compiler"):
        Compiled().ready(small(), torch.zeros(1, 3, 16, 16))
    assert runtime_for(small((INTEGERS,))) in {"onnx", "eager"} & set(RUNTIMES)


@needs_compiler
def test_networks_of_integers_are_timed_compiled():
    assert runtime_for(small()) == "eager"
    assert runtime_for(small((INTEGERS,))) == "compiled"
    with torch.device("meta"):
        assert runtime_for(small((INTEGERS,))) == "eager"


@needs_compiler
def test_integers_are_of_the_cpu():
    with pytest.raises(UserError, match="for the CPU, and not for meta"):
        Compiled().ready(small((INTEGERS,)), torch.zeros(1, 3, 16, 16, device="meta"))


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@needs_compiler
@pytest.mark.slow
def test_what_cannot_be_exported_is_said_in_a_line():
    network = small()
    network.relu = Undecided()
    with pytest.raises(UserError, match="runtime 'compiled': cannot take resnet8: ") as caught:
        Compiled().ready(network, torch.ones(1, 3, 16, 16))
    assert "\n" not in str(caught.value)


@needs_compiler
@pytest.mark.slow
def test_code_is_of_the_network_as_it_was(monkeypatch):
    """In any mode of the caller, and without another compilation."""
    network, images = small(), torch.randn(4, 3, 16, 16)
    before, settings = copy.deepcopy(network.state_dict()), torch._inductor.config.freezing
    answer = Compiled().ready(network, images)
    assert torch._inductor.config.freezing is settings
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    with torch.no_grad():
        wanted = network(images).logits
        for weight in network.parameters():
            weight.zero_()
    monkeypatch.setattr(torch._inductor, "compile", None)
    torch.testing.assert_close(answer(images), wanted, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(answer(images.clone()), wanted, rtol=1e-4, atol=1e-4)
    assert not answer(images).requires_grad


@pytest.fixture(scope="module")
def digit_images() -> tuple[Dataset, Tensor, Tensor]:
    """Normalised, for training and for testing."""
    from trainables.data.sources import load_dataset

    data = load_dataset("digits")
    test = data.read_test()
    train, unseen = (to_float(one, data.mean, data.std) for one in (data.train.images, test.images))
    return data, train, unseen


def trained(model: str, data: Dataset, images: Tensor) -> Network:
    """A network after two quick epochs on the digits."""
    torch.manual_seed(0)
    network = build(Blueprint(model), data.num_classes, data.image_shape).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for part in torch.randperm(len(images)).split(64):
            logits = network(images[part]).logits
            nn.functional.cross_entropy(logits, data.train.labels[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.eval()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "chain", "least"),
    [
        ("wrn_10_1", "int8", 0.8),
        pytest.param("wrn_16_1", "int8", 0.8, marks=pytest.mark.soak),
        ("resnet8", "qat+int8", 0.8),
        pytest.param("mobilenetv2_x0.25", "int8", 0.15, marks=pytest.mark.soak),
    ],
)
def test_every_layer_is_computed_in_integers(model, chain, least, digit_images):
    """And the accuracy is that of the network itself, which simulates them, within a point."""
    data, train, unseen = digit_images
    network = quantised(trained(model, data, train), train[:256], chain)
    layers = [one for one in network.modules() if isinstance(one, Int8Layer)]
    counters.clear()
    answer = Compiled().ready(network, unseen)
    found = counters["inductor"]
    convolutions = found["qconv_weight_prepack_matcher_count"]
    assert convolutions + found["qlinear_weight_prepack_matcher_count"] == len(layers)
    labels = data.read_test().labels
    with torch.no_grad():
        wanted, said = network(unseen).logits, answer(unseen)
    hits = [(logits.argmax(1) == labels).double().mean() for logits in (wanted, said)]
    assert hits[0] > least
    assert abs(hits[0] - hits[1]) <= 0.01
    assert (said - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param("wrn_16_1", marks=pytest.mark.soak),
        pytest.param("mobilenetv2_x0.25", marks=pytest.mark.soak),
        "resnet8",
        "mobilenetv2-minus14_x0.25",
    ],
)
def test_it_is_as_near_to_the_float_network_as_torchao(model, digit_images):
    """The reference is PT2E's own way with the same images: prepare, calibrate, convert."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    data, train, _ = digit_images
    network = trained(model, data, train)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images).logits

    calibration, labels = train[:64], data.train.labels[:64]
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        graph = prepare_pt2e(torch.export.export(Logits(), (calibration,)).module(), quantizer)
        graph(calibration)
        reference = convert_pt2e(graph)
        wanted = network(calibration).logits
        theirs, ours = reference(calibration), quantised(network, calibration)(calibration).logits
    errors = [((one - wanted).norm() / wanted.norm()).item() for one in (ours, theirs)]
    hits = [(one.argmax(1) == labels).double().mean() for one in (ours, theirs)]
    # Twice, because the MobileNetV2 has learned little, and its small answers are mostly rounding.
    assert errors[0] < 2 * errors[1] + 0.01
    assert hits[0] >= hits[1] - 0.05
