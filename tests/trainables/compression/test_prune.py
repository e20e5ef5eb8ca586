"""Structured pruning: which channels go, that the network is as small as asked, and still right."""

import copy
import itertools

import pytest
import torch
from torch import nn

from trainables.compression.channel_groups import ChannelGroups
from trainables.compression.measure import count_macs, count_params
from trainables.compression.prune import Cost, Prune
from trainables.compression.step import Scene
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.tasks.multi_label import MULTI_LABEL

SHAPE, CLASSES = (3, 32, 32), 10
MODELS = [
    "resnet20",
    "resnet8_zeropad",
    "resnet20-eca",
    "resnet18-eca_parallel_x0.25",
    "resnet18-eca_last_x0.25",
    "wrn_16_1",
    "mobilenetv2_x0.5",
    "vgg13_x0.25",
    "torchvision:resnet18",
]


def network_of(model):
    """With BatchNorm that shifts, so that a channel of zeros does not stay one by chance."""
    torch.manual_seed(0)
    network = build(Blueprint(model), CLASSES, SHAPE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.3, 0.5)
    return network.eval()


def scene(network):
    images = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Scene(
        network,
        lambda count: iter([(images[:count], torch.arange(len(images[:count])) % CLASSES)]),
        torch.Generator().manual_seed(0),
        SHAPE,
        torch.device("cpu"),
    )


def pruned(network, **settings):
    """The network after its one round; and what it was before."""
    step = Prune(Prune.Config(**settings))
    step.check(network, SHAPE)
    before = copy.deepcopy(network)
    (change,) = step.at(step.moments[0], scene(network))
    edit(network, change, SHAPE)
    return before, network


@pytest.mark.parametrize("model", MODELS)
def test_channels_that_nobody_reads_can_go(model):
    """Removed channels with zero outgoing weights leave the logits as they are, attention and
    zero-padded shortcuts included."""
    network = network_of(model)
    groups = ChannelGroups(network, SHAPE)
    drawn = torch.Generator().manual_seed(2)
    removed = [torch.randperm(size, generator=drawn)[: size // 2] for size in groups.sizes]
    kept = groups.kept(removed)
    with torch.no_grad():
        for name, mask in kept["inputs"].items():
            module = network.get_submodule(name)
            if isinstance(module, nn.Linear) or (
                isinstance(module, nn.Conv2d) and module.groups == 1
            ):
                module.weight[:, ~mask] = 0
        if model == "resnet8_zeropad":  # its shortcuts read without a weight
            for name, mask in kept["outputs"].items():
                block, _, leaf = name.rpartition(".")
                if leaf == "bn2":
                    network.get_submodule(block).register_forward_hook(
                        lambda *call, mask=mask: call[-1] * mask[:, None, None]
                    )
        images = torch.randn(4, *SHAPE, generator=drawn)
        wanted = network(images).logits
        for module in network.modules():
            module._forward_hooks.clear()
        edit(network, groups.cut(removed), SHAPE)
        given = network(images).logits
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    assert sum(groups.sizes) > 0


def half_of_the_cases():
    """Every network twice, every scope and count with two networks; `make soak` takes all."""
    models = ["resnet20", "resnet8_zeropad", "resnet20-eca", "mobilenetv2_x0.5"]
    for turn, (model, scope, of) in enumerate(
        itertools.product(models, ["global", "layer"], ["macs", "params"])
    ):
        here = turn % 4 in ((0, 3) if turn // 4 % 2 else (1, 2))
        yield pytest.param(model, scope, of, marks=[] if here else pytest.mark.soak)


@pytest.mark.parametrize(("model", "scope", "of"), half_of_the_cases())
def test_the_factor_that_was_asked_for(model, scope, of):
    before, after = pruned(network_of(model), amount=2.0, of=of, scope=scope)
    count = count_params if of == "params" else lambda network: count_macs(network, SHAPE)
    assert count(before) / count(after) == pytest.approx(2.0, rel=0.05)
    after(torch.zeros(1, *SHAPE))


def test_a_frozen_teacher_is_cut_as_well():
    network = network_of("resnet20").requires_grad_(False)
    before, after = pruned(network, amount=2.0)
    assert count_macs(before, SHAPE) / count_macs(after, SHAPE) == pytest.approx(2.0, rel=0.05)


def test_larger_factors_never_leave_more():
    sizes = []
    for amount in (1.2, 1.5, 2.0, 4.0, 8.0):
        _, after = pruned(network_of("resnet20"), amount=amount)
        sizes.append(sum(weight.numel() for weight in after.parameters()))
    assert sizes == sorted(sizes, reverse=True)


def test_attention_keeps_its_convolution():
    _, after = pruned(network_of("resnet20-eca"), amount=2.0)
    attention = [m for m in after.modules() if isinstance(m, nn.Conv1d)]
    assert attention
    assert all((m.in_channels, m.out_channels, m.groups) == (1, 1, 1) for m in attention)


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "taylor", "random"])
def test_criteria(criterion):
    """Channels without a filter, a scale and readers go first, whatever measures them."""
    network = network_of("resnet8")
    weak = torch.arange(0, 16, 2)
    with torch.no_grad():
        for block in network.layer1:
            block.conv1.weight[weak] = 0
            block.bn1.weight[weak] = 0
            block.bn1.bias[weak] = 0
            block.conv2.weight[:, weak] = 0
    before, after = pruned(network, amount=1.2, criterion=criterion)
    kept = dict(after.blueprint.edits[0].outputs).get("layer1.0.conv1", "0-15")
    gone = set(range(16)) - _positions(kept)
    assert gone
    assert (gone <= set(weak.tolist())) == (criterion != "random")
    assert count_macs(before, SHAPE) > count_macs(after, SHAPE)


def test_taylor_reads_the_loss_of_the_task():
    """Of images of several classes, too."""
    network = network_of("resnet8")
    images, target = torch.randn(4, *SHAPE), torch.randint(2, (4, CLASSES), dtype=torch.uint8)
    seen = scene(network)._replace(batches=lambda _: iter([(images, target)]), task=MULTI_LABEL)
    step = Prune(Prune.Config(amount=1.5, criterion="taylor"))
    (change,) = step.at(0.0, seen)
    edit(network, change, SHAPE)
    assert network(images).logits.isfinite().all()


def _positions(ranges):
    ends = [[int(end) for end in part.split("-")] for part in ranges.split(",")]
    return {channel for pair in ends for channel in range(pair[0], pair[-1] + 1)}


def test_rounds_reach_the_factor_together():
    step = Prune(Prune.Config(amount=4.0, rounds=2, begin=0.0, end=0.5))
    assert step.moments == [0.0, 0.5]
    network = network_of("resnet20")
    whole = count_macs(network, SHAPE)
    for moment, factor in zip(step.moments, (2.0, 4.0), strict=True):
        for change in step.at(moment, scene(network)):
            edit(network, change, SHAPE)
        assert whole / count_macs(network, SHAPE) == pytest.approx(factor, rel=0.05)


def test_pruned_networks_are_built_again():
    """From the blueprint and the weights: equal logits."""
    for model in ("resnet8_zeropad", "mobilenetv2_x0.5"):
        _, after = pruned(network_of(model), amount=2.0)
        again = build(Blueprint.from_json(after.blueprint.to_json()), CLASSES, SHAPE).eval()
        again.load_state_dict(after.state_dict())
        images = torch.randn(2, *SHAPE)
        assert torch.equal(again(images).logits, after(images).logits)


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("model", MODELS)
def test_costs_are_foreseen(model, of):
    """What is computed from masks is what is counted on the network that they lead to."""
    network = network_of(model)
    groups = ChannelGroups(network, SHAPE)
    removed = [torch.arange(size // 3) for size in groups.sizes]
    foreseen = Cost(network, SHAPE, of).of(groups.kept(removed))
    edit(network, groups.cut(removed), SHAPE)
    found = count_params(network) if of == "params" else count_macs(network, SHAPE)
    assert foreseen == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"amount": 1000.0}, "cannot be reached"),
        ({"amount": 8.0, "least": 0.9}, "cannot be reached"),
    ],
)
def test_what_cannot_be_reached_is_refused_before_anything_starts(settings, words):
    with torch.device("meta"):
        network = build(Blueprint("resnet8"), CLASSES, SHAPE)
    with pytest.raises(UserError, match=words):
        Prune(Prune.Config(**settings)).check(network, SHAPE)
