"""Orders of steps that cannot work, rounds that fall together, and steps that spoil a student."""

import pytest
import torch

from orchestrator.sweeps.checks import check_names
from orchestrator.sweeps.plan import Plan
from search_spaces.load import parse_study
from trainables.compression.chain import Chain, check_steps
from trainables.compression.registry import STEPS, config_of, part_class, resolve_chain
from trainables.compression.rounds import crowded, epochs_before
from trainables.errors import Diverged, UserError
from trainables.models.blueprint import Blueprint, build
from trainables.training import Training

SHAPE = (3, 16, 16)
ROUNDS = {"sparsify.rounds": 3, "sparsify.begin": 0.0, "sparsify.end": 0.5}


def check(compression, **values):
    with torch.device("meta"):
        network = build(Blueprint("resnet8"), 10, SHAPE)
    check_steps(Chain(compression, resolve_chain(compression, values)).steps, network, SHAPE)


@pytest.mark.parametrize(
    ("compression", "values"),
    [
        ("sparsify+prune", {}),
        ("sparsify+prune", {"prune.begin": 0.5, "prune.end": 0.5, **ROUNDS}),
        ("prune+sparsify", {"prune.begin": 0.7, "prune.end": 0.7, **ROUNDS}),
        ("sparsify+prune", {"sparsify.pattern": "2:4"}),
    ],
)
def test_cuts_behind_the_last_masks_are_refused(compression, values):
    """The share of zeros that was asked for would be another one, and 2:4 no pattern."""
    said = "compression: 'prune' would cut behind the last round of 'sparsify'.*prune.sparsify"
    with pytest.raises(UserError, match=said) as caught:
        check(compression, **values)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("compression", "values"),
    [
        ("prune+sparsify", {}),
        ("sparsify+prune", {"prune.begin": 0.25, "prune.end": 0.25, **ROUNDS}),
        ("prune+sparsify+gpfq", {}),
        ("prune+sparsify", {"prune.rounds": 2, "prune.end": 0.5, **ROUNDS}),
    ],
)
def test_cuts_before_the_last_masks_are_fine(compression, values):
    check(compression, **values)


@pytest.mark.parametrize(
    ("compression", "values", "said"),
    [
        ("gpfq+prune", {}, "'prune' would change what 'gpfq' leaves"),
        ("msq+sparsify", {}, "'sparsify' would change what 'msq' leaves"),
        ("prune+prune", {}, "'prune' is named twice"),
        ("prune", {"prune.begin": 0.5}, "prune.end: expected at least prune.begin 0.5, got 0"),
        ("prune", {"prune.rounds": 2}, "prune.end: expected more than prune.begin 0, got 0"),
        ("prune", {"prune": 1000}, "1000 times fewer macs cannot be reached"),
        ("prune", {"prune.layers": "layer4.*"}, "prune.layers: unknown layer of resnet8 'layer4"),
        ("prune", {"prune.layers": "layer1.0.conv2"}, "prune.layers: none of layer1.0.conv2 can"),
        ("prune", {"prune.layers": "vgg2020"}, "resnet8 has no such layers"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_starts(compression, values, said):
    with pytest.raises(UserError) as caught:
        check(compression, **values)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("rounds", [{}, {"prune.rounds": 2, "prune.end": 0.5}])
def test_a_gap_between_equal_shares_is_seen_before_the_training(rounds):
    """Of 4, 8 and 16 channels no equal shares make it 6 times smaller, or the root of that."""
    with torch.device("meta"):
        network = build(Blueprint("resnet8_x0.25"), 10, (3, 32, 32))
    values = {"prune": 6, "prune.scope": "layer", "prune.least": 0.0} | rounds
    (step,) = Chain("prune", resolve_chain("prune", values)).steps
    with pytest.raises(UserError, match=r"fewer macs cannot be reached: the nearest network is"):
        step.check(network, (3, 32, 32))


def test_moments_wait_for_the_next_epoch():
    found = [epochs_before(moment, 10) for moment in (0, 0.01, 0.1, 0.7, 0.71, 1)]
    assert found == [0, 1, 1, 7, 8, 10]


def test_rounds_of_one_epoch_are_counted():
    assert crowded([0.0, 0.5], 2) is None
    assert crowded([0.0, 0.25, 0.5, 0.75], 4) is None
    assert "1 of 4 come together" in str(crowded([0.0, 0.25, 0.5, 0.75], 2))
    assert "3 of 4 come together" in str(crowded([0.1, 0.2, 0.3, 0.4], 1))


@pytest.mark.parametrize("step", ["prune", "sparsify"])
def test_rounds_of_one_epoch_are_said_before_the_training(step, caplog):
    def said(epochs):
        caplog.clear()
        fixed = {"compression": step, f"{step}.rounds": 4, f"{step}.end": 0.75, "epochs": epochs}
        content = {"name": "s", "dataset": "digits", "sampler": "grid", "fixed": fixed}
        check_names(Plan(parse_study(content), "s", "unused"))
        return caplog.text

    assert said(4) == ""
    assert f"{step}.rounds: 1 of 4 come together" in said(2)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_leaves_no_numbers_fails_by_its_name(name, quick, digits):
    """As one does whose weights overflow, or are divided by a scale of zero."""
    kind = part_class(name)

    class Spoiling(kind):
        def at(self, moment, scene):
            changes = super().at(moment, scene)
            scene.network.classifier.bias[0] = torch.nan
            return changes

    step = Spoiling(config_of(name, resolve_chain(name, {})))
    step.name = name
    config = quick(student="resnet8_x0.5", epochs=1, train_fraction=0.05)
    training = Training(config, digits, "resnet8_x0.5", None, torch.device("cpu"), [step])
    with pytest.raises(Diverged, match=f"no numbers after step {name}, which changed it"):
        training.run_epoch()
