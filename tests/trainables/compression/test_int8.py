"""Int8 as a step: what is folded, calibrated and refused, wherever BatchNorm stands."""

import copy

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables.compression.chain import Chain, check_steps
from trainables.compression.int8 import Int8Step
from trainables.compression.measure import count_params, nonzero_params
from trainables.compression.ranges import BINS, grids_of
from trainables.compression.registry import STEPS, canonical_chain, resolve_chain
from trainables.compression.step import Scene
from trainables.compression.wiring import wiring
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.models import int8
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.fake_quantised import FakeQuantised, Widths
from trainables.models.grid import Grid
from trainables.models.int8 import Int8Layer, Int8Sum
from trainables.models.layers import Sum
from trainables.models.masks import masks
from trainables.models.shapes import output_shapes
from trainables.runtimes.onnx_file import export_onnx

SHAPE = (3, 32, 32)
CPU = torch.device("cpu")
MODELS = ["resnet8", "wrn_16_1", "mobilenetv2_x0.25", "vgg11_x0.25"]
EPS, MOMENTUM, DROPOUT = 1e-3, 0.01, 0.2


def network_of(model):
    """BatchNorm that does something, with other numbers than the usual ones."""
    torch.manual_seed(1)
    network = build(Blueprint(model), 5, SHAPE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = EPS, MOMENTUM
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    return network.eval()


def images_of(count, seed=2):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def scene(network, images, batch=64):
    target = torch.zeros(len(images), dtype=torch.int64)

    def batches(count):
        return zip(images[:count].split(batch), target[:count].split(batch), strict=True)

    return Scene(network, batches, torch.Generator().manual_seed(3), SHAPE, CPU)


def change_of(network, images, batch=64, **settings):
    (change,) = Int8Step(Int8Step.Config(**settings)).at(1.0, scene(network, images, batch))
    return change


def quantised(network, images=None, **settings):
    made = copy.deepcopy(network)
    change = change_of(made, images_of(16) if images is None else images, **settings)
    edit(made, change, SHAPE)
    return made.eval()


def through(chain, network, images):
    """A network behind all moments of a chain, without updates between them."""
    steps = Chain(chain, resolve_chain(chain, {"qat": 8} if "qat" in chain else {})).steps
    check_steps(steps, network, SHAPE)
    made = copy.deepcopy(network)
    moments = sorted({(moment, n) for n, step in enumerate(steps) for moment in step.moments})
    for moment, number in moments:
        with torch.no_grad():
            for change in steps[number].at(moment, scene(made, images)):
                edit(made, change, SHAPE)
    return made.eval()


CHAINS = ["int8", *(["qat+int8"] if "qat" in STEPS else [])]


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_without_rounding_it_is_the_float_network(model, monkeypatch):
    """Folding into layers with a bias and without, stand-alone BatchNorm, dropout, all sums."""
    network, images = network_of(model), images_of(8)
    monkeypatch.setattr(Grid, "whole", lambda self, x: x / self.scale)
    monkeypatch.setattr(Grid, "nearest", lambda self, x: x)
    one = lambda layer: torch.ones(len(layer.weight), dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(int8, "_whole", lambda layer: (layer.weight.detach(), one(layer)))
    made = quantised(network, images)
    wanted, found = network(images), made(images)
    scale = wanted.logits.abs().max()
    torch.testing.assert_close(found.logits / scale, wanted.logits / scale, rtol=0, atol=1e-5)
    for ours, theirs in zip(found.stages, wanted.stages, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_it_stays_near_the_float_network(model):
    network, images = network_of(model), images_of(64)
    made = quantised(network, images)
    unseen = images_of(32, seed=9)
    wanted, found = network(unseen).logits, made(unseen).logits
    assert 0 < (found - wanted).norm() < 0.03 * wanted.norm()
    count = sum(isinstance(one, nn.Conv2d | nn.Linear) for one in network.modules())
    assert sum(isinstance(one, Int8Layer) for one in made.modules()) == count
    assert not any(type(one) is Sum for one in made.modules())


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_modes_come_and_go_without_a_trace(model):
    """Stand-alone BatchNorm keeps its numbers, dropout its share, and all of it its answers."""
    made, images = quantised(network_of(model)), images_of(4)
    before, state = made(images).logits, copy.deepcopy(made.state_dict())
    for mode in (True, False, True, False):
        made.train(mode)
    norms = [one for one in made.modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(norms) == {"wrn_16_1": 7}.get(model, 0)
    assert all((one.eps, one.momentum) == (EPS, MOMENTUM) for one in norms)
    assert all(one.p == DROPOUT for one in made.modules() if isinstance(one, nn.Dropout))
    assert torch.equal(made(images).logits, before)
    assert all(torch.equal(made.state_dict()[key], value) for key, value in state.items())


@torch.no_grad()
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("model", ["wrn_16_1", "resnet8"])
def test_an_image_says_the_same_in_any_company(chain, model):
    made, images = through(chain, network_of(model), images_of(64)), images_of(64, seed=4)
    together = made(images).logits
    assert torch.equal(made(images).logits, together)
    for at in (0, 17, 63):
        assert torch.equal(made(images[at : at + 1]).logits[0], together[at])


@torch.no_grad()
@pytest.mark.skipif("qat" not in STEPS, reason="the step 'qat' is not registered")
@pytest.mark.parametrize("model", ["wrn_16_1", "resnet8"])
def test_learned_integers_answer_as_they_were_trained(model, monkeypatch):
    network, images = network_of(model), images_of(64)
    trained = through("qat", network, images)
    made = through("qat+int8", network, images)
    wanted, found = trained(images).logits, made(images).logits
    assert 0 < (found - wanted).norm() < 0.03 * wanted.norm()
    monkeypatch.setattr(Int8Sum, "forward", Sum.forward)  # which was not trained with
    assert (made(images).logits - wanted).norm() < 0.002 * wanted.norm()
    for name, layer in made.named_modules():
        if isinstance(layer, Int8Layer):
            steps = trained.get_submodule(name)
            assert layer.grid.scale == steps.input_step.item()
            values = layer.weight.float() * steps.weight_step
            torch.testing.assert_close(values, steps.weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"qat": 4}, "qat: expected 8 bits with int8, got 4"),
        ({"qat": 8, "qat.activations": 6}, "qat.activations: expected 8 bits with int8, got 6"),
        ({"qat": 8, "qat.ends": 7}, "qat.ends: expected 8 bits with int8, got 7"),
        ({"qat": 8, "qat.weights_only": True}, "qat.weights_only: expected false with int8"),
    ],
)
@pytest.mark.skipif("qat" not in STEPS, reason="the step 'qat' is not registered")
def test_only_8_bits_become_int8(settings, words):
    chain = Chain("qat+int8", resolve_chain("qat+int8", settings))
    with pytest.raises(UserError, match=words):
        check_steps(chain.steps, network_of("resnet8"), SHAPE)


def test_a_student_of_fewer_bits_is_refused():
    network = network_of("resnet8")
    widths = Widths(weight_bits=4, input_bits=None, input_signed=False, per_channel=False)
    edit(network, FakeQuantised.of({"conv1": widths}), SHAPE)
    with pytest.raises(UserError, match="'conv1' has weights of 4 and inputs of 32 bits"):
        Int8Step(Int8Step.Config()).check(network, SHAPE)


@pytest.mark.parametrize("name", ["int8", "gpfq", "sparsify"])
def test_a_student_of_integers_is_refused(name):
    chain = Chain(name, resolve_chain(name, {}))
    with pytest.raises(UserError, match=f"{name}: the student has layers of integers already"):
        check_steps(chain.steps, quantised(network_of("resnet8")), SHAPE)


@pytest.mark.parametrize("model", ["resnet8", "wrn_16_1"])
def test_shapes_and_gradients_are_those_of_the_float_network(model):
    """The input's gradient, of which rounding would leave nothing."""
    network, images = network_of(model), images_of(8)
    made = quantised(network, images)
    wanted, found = output_shapes(network, SHAPE), output_shapes(made, SHAPE)
    assert found.pooled is wanted.pooled is True
    assert found.features == wanted.features
    gradients = []
    for one in (network, made):
        leaf = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(one(leaf).logits[:, 0].sum(), leaf)[0].flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.7


@pytest.mark.parametrize("behind", ["prune", "sparsify", "rtn"])
def test_nothing_follows(behind):
    values = {"prune": 2.0} if behind == "prune" else {}
    chain = Chain(f"int8+{behind}", resolve_chain(f"int8+{behind}", values))
    with pytest.raises(UserError, match=f"'{behind}' would change what 'int8' leaves"):
        check_steps(chain.steps, network_of("resnet8"), SHAPE)
    assert canonical_chain("int8") == "int8"


def test_masked_weights_stay_zero():
    network = network_of("resnet8")
    made = through("sparsify+int8", network, images_of(16))
    assert masks(network) == {}
    zeros = [
        (one.weight == 0).double().mean() for one in made.modules() if isinstance(one, Int8Layer)
    ]
    assert min(zeros) > 0.3


@torch.no_grad()
@pytest.mark.parametrize("choice", ["minmax", "mse"])
def test_calibration_leaves_the_network_and_does_not_see_batches(choice):
    network, images = network_of("wrn_16_1"), images_of(40)
    before = copy.deepcopy(network.state_dict())
    found = [change_of(network.train(), images, batch, range=choice) for batch in (1, 40)]
    assert found[0] == found[1]
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert network.training
    assert not network._forward_hooks
    assert change_of(network, images[:8], range=choice) != found[0]


@torch.no_grad()
def test_ranges_by_hand():
    network, images = network_of("resnet8"), images_of(70)
    found = grids_of(network, images, ["conv1"], "minmax")
    assert found == {("conv1", 0): Grid.covering(images.min().item(), images.max().item())}
    # An outlier of 100 among values of [0, 1]: the least error is not where it is covered.
    images = torch.rand(3000, *SHAPE)[:64]
    images[0, 0, 0, 0] = 100
    every = Grid.covering(0, 100)
    least = grids_of(network, images, ["conv1"], "mse")["conv1", 0]
    assert least.scale < every.scale
    errors = [(one.nearest(images) - images).square().sum() for one in (least, every)]
    bins = images.numel() * (100 / BINS) ** 2 / 4  # values count as the middles of their bins
    assert errors[0] <= errors[1] + bins


class Wired(nn.Module):
    """Convolutions with BatchNorm behind them in every way that is not one layer, and one that
    is."""

    def __init__(self):
        super().__init__()
        self.twice, self.own = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.read, self.bent, self.said = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(6))
        self.sum = Sum()

    def forward(self, x):
        x = self.norms[0](self.twice(x)) + self.norms[1](self.twice(x))
        kept = self.read(x)
        x = self.norms[2](kept) + kept
        x = self.norms[3](F.relu_(self.bent(x)))
        raw = self.said(x)
        x = self.norms[4](raw)
        return self.sum(self.norms[5](self.own(x)), x), raw


def test_only_what_is_one_layer_is_folded():
    network = Wired().eval()
    found = wiring(network, torch.randn(1, *SHAPE), {nn.Conv2d})
    assert found.layers == ["twice", "read", "bent", "said", "own"]
    assert found.norms == {"own": "norms.5"}
    assert found.sums == {"sum": "own"}


def test_what_stays_in_floating_point_is_said(caplog):
    network = network_of("resnet8-eca")
    Int8Step(Int8Step.Config()).check(network, SHAPE)
    assert (
        "3 weights stay in floating point in resnet8-eca: layer1.0.eca.conv.weight" in caplog.text
    )
    made = quantised(network)
    assert {type(one) for one in made.modules()} >= {nn.Conv1d, Sum}


@torch.no_grad()
@pytest.mark.parametrize("model", ["timm:resnet10t", "torchvision:resnet18"])
def test_networks_of_other_libraries(model):
    network, images = network_of(model), images_of(16)
    made = quantised(network, images)
    wanted, found = network(images), made(images)
    assert (found.logits - wanted.logits).norm() < 0.1 * wanted.logits.norm()
    assert len(found.stages) == len(wanted.stages)
    assert not any(isinstance(one, nn.Conv2d | nn.Linear) for one in made.modules())


def test_weights_of_integers_are_counted():
    network = network_of("resnet8")
    with torch.no_grad():
        network.conv1.weight[0] = 0
    made = quantised(network)
    weights = [one.weight for one in made.modules() if isinstance(one, Int8Layer)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros >= network.conv1.weight[0].numel()
    learned = [weight for weight in made.parameters() if weight.requires_grad]
    assert nonzero_params(made) == count_params(made) - zeros
    assert count_params(made) == sum(one.numel() for one in [*weights, *learned])


def test_its_file_answers_as_it_does_from_raw_pixels(tmp_path):
    """Calibrated on normalised images, with the normalisation inside the file."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    made = quantised(network_of("resnet8"))
    pixels = torch.randint(256, (16, *SHAPE), generator=torch.Generator().manual_seed(4))
    pixels = pixels.to(torch.uint8)
    path = tmp_path / "net.onnx"
    asked = []
    export_onnx(
        made,
        SHAPE,
        path,
        mean=mean,
        std=std,
        provenance={"trial": "t"},
        accept=lambda answer: asked.append(answer(pixels)),
    )
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    with torch.no_grad():
        own = made(to_float(pixels, mean, std)).logits
    (theirs,) = asked
    assert torch.equal(theirs.argmax(1), own.argmax(1))
    assert (theirs - own).square().mean().sqrt() < 0.03 * own.square().mean().sqrt()
