"""Which layers may be cut: the recipe for VGGs, patterns; and what stays of a layer in any case."""

import copy
import io
import math

import pytest
import safetensors.torch
import torch
from torch import nn

from trainables.compression.channel_groups import ChannelGroups
from trainables.compression.layer_choice import chosen_layers
from trainables.compression.lockstep import layers
from trainables.compression.measure import count_macs, count_params
from trainables.compression.prune import Prune
from trainables.compression.step import Scene
from trainables.errors import UserError
from trainables.job import STUDENT, Run
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.weights import read_network
from trainables.training import Training

SHAPE, CLASSES = (3, 32, 32), 10
CPU = torch.device("cpu")


def network_of(model, classes=CLASSES, shape=SHAPE):
    torch.manual_seed(0)
    return build(Blueprint(model), classes, shape).eval()


def pruned(network, shape=SHAPE, **settings):
    """The edit of a step's one round, applied."""
    step = Prune(Prune.Config(**settings))
    step.check(network, shape)
    drawn = torch.Generator().manual_seed(0)
    scene = Scene(network, lambda _: iter(()), drawn, shape, CPU, began=network.blueprint)
    (change,) = step.at(step.moments[0], scene)
    edit(network, change, shape)
    return network


@pytest.mark.parametrize(
    ("factor", "first", "last", "params"),
    [(1.755, 44, 358, 8_675_188), (2.762, 32, 256, 5_512_852), (4.657, 19, 153, 3_269_153)],
)
def test_the_vgg_recipe_leaves_what_its_authors_count(factor, first, last, params):
    """Shares 0.3, 0.5 and 0.7 of conv1_1, conv4_x and conv5_x of the VGG-16 for VOC."""
    shape = (3, 227, 227)
    with torch.device("meta"):
        network = build(Blueprint("vgg16"), 20, shape)
    assert count_params(network) == 15_224_916
    recipe = {"layers": "vgg2020", "scope": "layer", "of": "params", "criterion": "random"}
    scene = Scene(network, lambda _: iter(()), torch.Generator(), shape, CPU)
    (change,) = Prune(Prune.Config(amount=factor, **recipe)).at(0.0, scene)
    edit(network, change, shape)
    widths = [m.out_channels for m in network.features if isinstance(m, nn.Conv2d)]
    assert widths == [first, 64, 128, 128, 256, 256, 256, *[last] * 6]
    assert count_params(network) == params


def test_the_vgg_recipe_keeps_the_largest_filters_and_their_columns():
    """Its code gave the classifier other columns; logits are right where the lost were silent."""
    network = network_of("vgg11_x0.25", shape=(3, 64, 64))  # four positions for each channel
    loud = torch.arange(128) % 2 == 0
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.out_channels == 128:
                module.weight[~loud] *= 1e-3
            if isinstance(module, nn.Conv2d) and module.in_channels == 128:
                module.weight[:, ~loud] = 0
        network.classifier.weight.view(CLASSES, 128, 4)[:, ~loud] = 0
        network.features[0].weight[8:] *= 1e-3
        network.features[4].weight[:, 8:] = 0
    images = torch.randn(2, 3, 64, 64)
    wanted = network(images).logits
    recipe = {"layers": "vgg2020", "scope": "layer", "of": "params", "criterion": "filter_l1"}
    whole = count_params(network)
    convolutions = 8 * 28 + 32 * 73 + 64 * 289 + 64 * 577 + 64 * 577 + 3 * 64 * 577
    left = convolutions + 2 * (8 + 32 + 2 * 64 + 4 * 64) + (64 * 4 + 1) * CLASSES
    pruned(network, (3, 64, 64), amount=whole / left, **recipe)
    assert count_params(network) == left
    assert network.features[25].out_channels == 64
    assert network.features[0].out_channels == 8
    torch.testing.assert_close(network(images).logits, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("vgg11", ["features.0", "features.15", "features.18", "features.22", "features.25"]),
        ("vgg11_gap", ["block0.0", "block3.0", "block3.3", "block4.0", "block4.3"]),
    ],
)
def test_conv1_conv4_and_conv5(model, names):
    with torch.device("meta"):
        assert chosen_layers(build(Blueprint(model), 10, SHAPE), "vgg2020", "k") == {*names}


@pytest.mark.parametrize("model", ["resnet8", "mobilenetv2_x0.25", "torchvision:vgg11_bn"])
def test_others_have_no_such_layers(model):
    with torch.device("meta"):
        network = build(Blueprint(model), 10, SHAPE)
    with pytest.raises(UserError, match=f"^prune.layers: vgg2020 is about .* {model} has no such"):
        chosen_layers(network, "vgg2020", "prune.layers")


def test_patterns_cut_what_they_name_and_nothing_else():
    before, network = network_of("resnet8"), network_of("resnet8")
    pruned(network, amount=1.3, layers="layer1.*.conv1, layer3.*.conv1")
    changed = {
        name
        for name, layer in layers(network).items()
        if layer.weight.shape[0] != before.get_parameter(f"{name}.weight").shape[0]
    }
    assert changed <= {"layer1.0.conv1", "layer3.0.conv1"}
    assert changed


def test_a_layer_that_writes_into_a_sum_goes_with_the_others():
    with torch.device("meta"):
        network = build(Blueprint("resnet8"), 10, SHAPE)
    alone = {"layer1.0.conv1"}
    together = {"conv1", "layer1.0.conv2"}
    for chosen, sizes in ((alone, [16]), (together, [16]), ({"conv1"}, []), (alone | together, 2)):
        found = ChannelGroups(network, SHAPE, {*layers(network)} - chosen).sizes
        assert found == sizes or len(found) == sizes


def test_norms_of_filters_alone():
    """By hand; of layers that write into one sum they add up, and readers count nothing."""
    network = network_of("resnet8")
    groups = ChannelGroups(network, SHAPE)
    found = [values for values in groups.filter_norms() if len(values) == 16]
    block = network.layer1[0]
    with torch.no_grad():
        sums = [
            one.weight.abs().sum((1, 2, 3)) for one in (block.conv1, network.conv1, block.conv2)
        ]
    for wanted in (sums[0], sums[1] + sums[2]):
        assert any(torch.allclose(values, wanted, rtol=1e-5) for values in found)
    with pytest.raises(UserError, match=r"prune.criterion: filter_l1 .* prune.scope: layer"):
        Prune(Prune.Config(criterion="filter_l1"))


@pytest.mark.parametrize("least", [0.0, 0.1, 0.5])
def test_no_layer_is_emptied(least):
    """However little its channels matter, beside those of other layers."""
    network = network_of("resnet8")
    with torch.no_grad():
        block = network.layer2[0]
        for weight in (block.conv1.weight, block.bn1.weight, block.conv2.weight.transpose(0, 1)):
            weight[1:] *= 1e-6
    pruned(network, amount=1.5, least=least)
    assert block.conv1.out_channels == max(1, math.ceil(least * 32))
    assert network(torch.randn(2, *SHAPE)).logits.isfinite().all()


def test_attention_of_one_channel_stays_what_it_is():
    """Its convolution of one group and one output is no depthwise one."""
    network = network_of("resnet20-eca")
    whole = count_macs(network, SHAPE)
    inner = [name for name in layers(network) if name.endswith(".conv1")]
    silent = {name: torch.arange(0, network.get_submodule(name).out_channels, 2) for name in inner}
    with torch.no_grad():
        for name, gone in silent.items():
            network.get_submodule(name).weight[gone] *= 1e-3
            network.get_submodule(name.replace("conv1", "conv2")).weight[:, gone] = 0
    images = torch.randn(4, *SHAPE)
    wanted = network(images).logits
    pruned(network, amount=whole / (whole * 0.55), layers="*.conv1", scope="layer")
    torch.testing.assert_close(network(images).logits, wanted, rtol=1e-6, atol=1e-6)
    pruned(network, amount=2.0)
    assert whole / count_macs(network, SHAPE) == pytest.approx(2.0 / 0.55, rel=0.06)
    mixing = [module for module in network.modules() if isinstance(module, nn.Conv1d)]
    assert mixing
    assert {(m.in_channels, m.out_channels, m.groups) for m in mixing} == {(1, 1, 1)}
    assert all(m.weight.shape[:2] == (1, 1) for m in mixing)


def test_a_cut_channel_emits_no_shift():
    """Of 16 channels 4 go, whose BatchNorm shifts by 0.7: in memory, from the file and with filter,
    scale and shift set to zero, the network says the same."""
    network = network_of("resnet8")
    block, gone = network.layer1[0], torch.tensor([2, 5, 7, 11])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(0.7)
                module.running_mean.normal_()
        block.conv1.weight[gone] *= 1e-4
    zeroed = copy.deepcopy(network)
    inner = zeroed.layer1[0]
    with torch.no_grad():
        for tensor in (inner.conv1.weight, inner.bn1.weight, inner.bn1.bias):
            tensor[gone] = 0
    images = torch.randn(4, *SHAPE)
    before = network(images).logits
    wanted = zeroed(images).logits
    share = count_macs(network, SHAPE)
    inner_macs = 2 * 16 * 16 * 9 * 1024
    pruned(network, amount=share / (share - inner_macs / 4), layers="layer1.0.conv1", least=0.5)
    assert block.conv1.out_channels == 12
    assert not set(gone.tolist()) & kept_of(network, "layer1.0.conv1")
    torch.testing.assert_close(network(images).logits, wanted, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(wanted, before, atol=1e-3)  # the shift was not nothing
    file = safetensors.torch.save(network.state_dict())
    again = build(Blueprint.from_json(network.blueprint.to_json()), CLASSES, SHAPE).eval()
    again.load_state_dict(safetensors.torch.load(io.BytesIO(file).getvalue()))
    assert torch.equal(again(images).logits, network(images).logits)


def kept_of(network, name):
    ranges = dict(network.blueprint.edits[0].outputs)[name]
    ends = [[int(end) for end in part.split("-")] for part in ranges.split(",")]
    return {channel for pair in ends for channel in range(pair[0], pair[-1] + 1)}


def test_the_rows_accuracy_is_that_of_the_network_built_again(quick, make_job, digits):
    config = quick(student="resnet8_x0.5", compression="prune", prune=1.5, epochs=1)
    job = make_job(config, "built-again")
    run = Run(job, CPU)
    run.run_epoch()
    row = run.row("completed")
    card, again = read_network(job.folder, STUDENT)
    assert card.edits
    test = digits.read_test()
    with torch.no_grad():
        said = again.eval()(run.training.learner.floats(test.images)).logits
    right = (said.argmax(1) == test.labels).float().mean().item()
    assert row["test_acc"] == pytest.approx(right, abs=2e-3)
    assert row["params"] == count_params(again)


def test_zero_padded_shortcuts_are_cut_again_and_again(quick, digits):
    """In a training, which knows the shapes of networks by those without values."""
    step = Prune(Prune.Config(amount=2.25, rounds=2, begin=0.0, end=0.5))
    config = quick(student="resnet8_zeropad", epochs=2, train_fraction=0.05)
    training = Training(config, digits, "resnet8_zeropad", None, CPU, [step])
    whole = count_macs(training.student, digits.image_shape)
    for factor in (1.5, 2.25):
        training.run_epoch()
        student = training.student
        assert whole / count_macs(student, digits.image_shape) == pytest.approx(factor, rel=0.05)
    assert len(student.blueprint.edits) == 2
    again = build(student.blueprint, 10, digits.image_shape)
    again.load_state_dict(student.state_dict())
    images = torch.randn(2, *digits.image_shape)
    said, wanted = again.eval()(images).logits, student.eval()(images).logits
    torch.testing.assert_close(said, wanted, rtol=1e-5, atol=1e-6)  # in another memory layout
