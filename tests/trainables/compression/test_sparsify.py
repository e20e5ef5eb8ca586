"""Masks: which weights they take, when, and that they hold."""

import copy

import pytest
import torch

from trainables.compression.lockstep import layers
from trainables.compression.measure import size_bytes
from trainables.compression.sparsify import Sparsify, pattern_mask, share_after, smallest
from trainables.compression.step import Scene
from trainables.errors import UserError
from trainables.job import Run
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Bits, Channels
from trainables.models.masks import Masked, apply_masks, masks
from trainables.optimizers.registry import OPTIMIZERS
from trainables.training import Training
from trainables.training.steps import take_steps

SHAPE = (3, 8, 8)


def student(model="resnet8"):
    torch.manual_seed(0)
    return build(Blueprint(model), 4, SHAPE)


def begin(step, network, moment):
    scene = Scene(network, lambda _: iter(()), torch.Generator(), SHAPE, torch.device("cpu"))
    return step.at(moment, scene)


def zeros(network):
    weights = [layer.weight for layer in layers(network).values()]
    total = sum(weight.numel() for weight in weights)
    return sum((weight == 0).sum().item() for weight in weights), total


def test_sixteen_rounds_of_a_fifth():
    """0.8^16 of the weights are left: 97.19 % are zero."""
    shares = [share_after(16, done, 1 - 0.8**16, "geometric") for done in range(1, 17)]
    assert shares[0] == pytest.approx(0.2)
    assert shares[1] == pytest.approx(0.36)
    assert shares[-1] == pytest.approx(0.9719, abs=5e-5)


def test_cubic_share_by_hand():
    assert share_after(2, 1, 0.8, "cubic") == pytest.approx(0.8 * (1 - 0.125))
    assert share_after(2, 2, 0.8, "cubic") == 0.8


def test_smallest_by_hand():
    """The masked weight goes first although it is the largest; of two equal ones the first."""
    weights = [torch.tensor([[9.0, -0.5], [0.5, 2.0]]), torch.tensor([[-0.1]])]
    kept = [torch.tensor([[False, True], [True, True]]), torch.tensor([[True]])]
    found = smallest(weights, kept, 3)
    assert found[0].tolist() == [[False, False], [True, True]]
    assert found[1].tolist() == [[False]]


def test_two_of_four_along_the_inputs():
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0]])
    assert pattern_mask(weight, 2, 4).tolist() == [
        [False, True, True, False, True, True, False, False]
    ]
    assert pattern_mask(torch.zeros(2, 3), 2, 4).all()  # three inputs have no such pattern
    filters = torch.randn(5, 8, 3, 3)
    kept = pattern_mask(filters, 2, 4)
    assert (kept.view(5, 2, 4, 3, 3).sum(2) == 2).all()


def test_masks_of_some_layers_are_completed_and_kept():
    """Those that are there stay, by a share and by a pattern; the edit says all that there are."""
    for settings in ({"amount": 0.75}, {"pattern": "2:4"}):
        network = student()
        edit(network, Masked(("layer1.0.conv1",)), SHAPE)
        there = masks(network)["layer1.0.conv1"]
        gone = torch.arange(16) % 4 < 3  # more than the pattern takes
        there[:, gone] = False
        apply_masks(network)
        (change,) = begin(Sparsify(Sparsify.Config(begin=0, end=0, **settings)), network, 0.0)
        assert change.modules == tuple(sorted(layers(network)))
        assert not masks(network)["layer1.0.conv1"][:, gone].any()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_exactly_the_share_is_zero(scope):
    network = student()
    begin(Sparsify(Sparsify.Config(amount=0.75, begin=0, end=0, scope=scope)), network, 0.0)
    found, total = zeros(network)
    if scope == "global":
        assert found == round(0.75 * total)
    else:
        for layer in layers(network).values():
            assert (layer.weight == 0).sum() == round(0.75 * layer.weight.numel())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_hold_after_every_update(name, quick, digits):
    """Whatever was gathered in momentum before the round; a weight that is 0 by chance trains."""
    rule = {"optimizer": name, "weight_decay": 1e-2, "lr": 0.01}
    config = quick(student="resnet8_x0.5", epochs=2, train_fraction=0.05, **rule)
    step = Sparsify(Sparsify.Config(amount=0.5, begin=0.5, end=0.5))
    training = Training(config, digits, "resnet8_x0.5", None, torch.device("cpu"), [step])
    learner, indices = training.learner, training.stream.train_indices
    feeds = [*training.stream(0, [indices[:16]] * 8)]
    learner.train()
    for number in range(3):
        learner.step(feeds[number], number / 3)
    take_steps(learner, 1)
    network = learner.student
    kept = {name: mask.clone() for name, mask in masks(network).items()}
    every = sum(mask.numel() for mask in kept.values())
    assert sum(int(mask.sum()) for mask in kept.values()) == every - round(0.5 * every)
    chosen = next(iter(kept))
    place = tuple(kept[chosen].nonzero()[0].tolist())
    network.get_parameter(f"{chosen}.weight").data[place] = 0.0
    before = network.classifier.weight.clone()
    learner.train()
    for number in range(3, 8):
        learner.step(feeds[number], 1 + number / 8)
        for module, mask in masks(network).items():
            assert torch.equal(mask, kept[module])
            assert (network.get_parameter(f"{module}.weight")[~mask] == 0).all()
    assert network.get_parameter(f"{chosen}.weight")[place] != 0
    assert not torch.equal(network.classifier.weight, before)


def test_rounds_only_add_zeros():
    step = Sparsify(Sparsify.Config(amount=1 - 0.8**16, rounds=16, begin=0.0, end=0.75))
    assert step.moments[0] == 0.0
    assert step.moments[-1] == 0.75
    assert len(step.moments) == 16
    network = student()
    before = None
    for number, moment in enumerate(step.moments):
        changes = begin(step, network, moment)
        assert len(changes) == (number == 0)
        now = {name: mask.clone() for name, mask in masks(network).items()}
        if before:
            assert all((now[name] <= before[name]).all() for name in now)
            with torch.no_grad():
                for layer in layers(network).values():
                    layer.weight.add_(0.01 * torch.randn_like(layer.weight))
                apply_masks(network)
        before = now
    found, total = zeros(network)
    assert found / total == pytest.approx(0.9719, abs=1e-4)


def test_masks_are_built_and_loaded_with_the_network():
    network = student()
    (change,) = begin(Sparsify(Sparsify.Config(amount=0.5, begin=0, end=0)), network, 0.0)
    network.blueprint = network.blueprint.edited(change).edited(Bits.of({"classifier": 8}))
    text = network.blueprint.to_json()
    again = build(Blueprint.from_json(text), 4, SHAPE)
    again.load_state_dict(copy.deepcopy(network.state_dict()))
    assert all(torch.equal(masks(again)[name], mask) for name, mask in masks(network).items())


def test_channels_that_are_cut_take_their_masks_along():
    network = student()
    begin(Sparsify(Sparsify.Config(amount=0.5, begin=0, end=0)), network, 0.0)
    bytes_before = size_bytes(network)
    wanted = masks(network)["layer1.0.conv2"][:, 4:8].clone()
    inner = {"layer1.0.conv1": range(4, 8)}
    cut = Channels.kept(inner | {"layer1.0.bn1": range(4, 8)}, {"layer1.0.conv2": range(4, 8)})
    edit(network, cut, SHAPE)
    assert torch.equal(masks(network)["layer1.0.conv2"], wanted)
    with torch.no_grad():
        network.layer1[0].conv2.weight.fill_(1.0)
    apply_masks(network)
    assert torch.equal(network.layer1[0].conv2.weight != 0, wanted)
    # Of twelve channels: filters of two layers, four values of BatchNorm, no mask.
    assert bytes_before - size_bytes(network) == 4 * 12 * (16 * 9 * 2 + 4)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"begin": 0.5, "end": 0.25}, "sparsify.end"),
        ({"rounds": 3, "begin": 0.5, "end": 0.5}, "sparsify.end"),
        ({"pattern": "4:2"}, "sparsify.pattern"),
        ({"pattern": "half"}, "sparsify.pattern"),
        ({"pattern": "2:4", "rounds": 3}, "sparsify.rounds"),
    ],
)
def test_settings_that_cannot_be(settings, key):
    with pytest.raises(UserError, match=key):
        Sparsify(Sparsify.Config(**settings))


def test_a_pattern_that_no_layer_can_have():
    step = Sparsify(Sparsify.Config(pattern="5:7"))
    with pytest.raises(UserError, match="multiple of 7"):
        step.check(student(), SHAPE)


def test_sixteen_rounds_of_a_fifth_through_a_kill(quick, make_job):
    """Killed after the third round: equal masks, and in the end 97.19 % are zero."""
    amount = {"sparsify": 1 - 0.8**16, "sparsify.rounds": 16, "sparsify.end": 15 / 16}
    config = quick(student="resnet8_x0.25", epochs=16, train_fraction=0.03, **amount)
    straight = Run(make_job(config, "straight"), torch.device("cpu"))
    killed = Run(make_job(config, "killed"), torch.device("cpu"))
    for done in range(1, 17):
        straight.run_epoch()
        killed.run_epoch()
        found, total = zeros(killed.training.student)
        assert found == pytest.approx((1 - 0.8**done) * total, abs=1)
        if done == 3:
            before = {name: mask.clone() for name, mask in masks(killed.training.student).items()}
            killed = Run(make_job(config, "killed"), torch.device("cpu"))
            assert killed.training.epoch == 3
            again = masks(killed.training.student)
            assert all(torch.equal(again[name], mask) for name, mask in before.items())
    assert found / total == pytest.approx(0.97185, abs=1 / total)
    ours, theirs = (masks(run.training.student) for run in (killed, straight))
    assert ours.keys() == {*layers(killed.training.student)}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
