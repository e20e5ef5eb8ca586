"""Trainings with learned step sizes."""

import io

import pytest
import torch

from trainables import once
from trainables.compression.chain import Chain
from trainables.engine import compiling
from trainables.engine.compiling import CompiledNetwork
from trainables.models.fake_quantised import (
    fake_quantised,
    initial_step,
)
from trainables.models.masks import masks
from trainables.training import Training
from trainables.training.steps import take_steps

CPU = torch.device("cpu")


@pytest.fixture
def train(digits, quick, digits_teacher):
    """A training of a chain on a tenth of the digits."""

    def make(epochs=2, **changes):
        changes = {"epochs": 2, "train_fraction": 0.1, "lr": 0.02, "method": "student"} | changes
        config = quick(**changes)
        chain = Chain(config.compression, config.chain)
        teacher = digits_teacher.load() if config.teacher else None
        training = Training(config, digits, config.student, teacher, CPU, chain.steps)
        training.losses = [training.run_epoch()["train_loss"] for _ in range(epochs)]
        return training

    return make


def same(one, other):
    ours, theirs = one.student.state_dict(), other.student.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize(("begin", "precision"), [(0, "fp32"), (0.5, "bf16")])
def test_an_interruption_changes_nothing(train, begin, precision):
    settings = {"qat": 3, "qat.begin": begin, "precision": precision, "qat.per_channel": True}
    whole, first = train(**settings), train(1, **settings)
    assert bool(fake_quantised(first.student)) == (begin == 0)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = train(0, **settings)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    second.run_epoch()
    assert same(whole, second)
    assert whole.student.blueprint == second.student.blueprint
    assert whole.val_score() == second.val_score()


def test_no_epoch_to_train_in_is_said(train, caplog):
    once.warn_once.cache_clear()
    training = train(epochs=1, **{"qat": 4, "qat.begin": 0.9})
    assert "left no epoch" not in caplog.text
    training.run_epoch()
    assert "qat.begin: 0.9 left no epoch to train step sizes in" in caplog.text
    assert fake_quantised(training.student)
    once.warn_once.cache_clear()
    caplog.clear()
    train(qat=4)
    assert "left no epoch" not in caplog.text


def test_weights_and_steps_are_learned(train):
    training = train(1, qat=4)
    begun = train(0, qat=4)
    layers = fake_quantised(training.student)
    assert len(layers) == 10
    for name, layer in layers.items():
        start = initial_step(
            begun.student.get_parameter(f"{name}.weight").abs().mean(), layer.weight_bits, True
        )
        assert layer.weight_step.item() != start.item()


@pytest.mark.parametrize("chain", ["sparsify+qat", "prune+qat"])
def test_behind_pruning(train, chain):
    settings = {"sparsify": 0.5, "sparsify.end": 0} if "sparsify" in chain else {"prune": 1.5}
    training = train(1, compression=chain, qat=3, **settings)
    assert fake_quantised(training.student)
    if "sparsify" in chain:
        assert masks(training.student)
        for name, mask in masks(training.student).items():
            layer = training.student.get_submodule(name)
            assert (layer.weight[~mask] == 0).all()
            assert (layer.quantised_weight()[~mask] == 0).all()
    else:
        assert training.student.blueprint.edits[0].kind == "channels"


@pytest.mark.parametrize("method", ["dml", "kd+at", "srd"])
def test_methods(train, method):
    training = train(1, method=method, teacher="resnet8", qat=4)
    assert fake_quantised(training.student)
    peers = {n: one for n, one in training.learner.networks.items() if n != "student"}
    assert bool(peers) == (method == "dml")
    assert not any(fake_quantised(peer) for peer in peers.values())


def test_compiled_passes_learn_the_same(train):
    plain, compiled = train(0, qat=4), train(0, qat=4)
    for training in (plain, compiled):
        take_steps(training.learner, 0)
    compiled.learner.networks.forward = CompiledNetwork(compiled.student, "aot_eager")
    for training in (plain, compiled):
        training.learner.train()
        plan = training.stream.plan(0)
        training.losses = [training.learner.step(f, 0.0) for f in training.stream(0, plan[:3])]
    assert not compiling._FAILED
    torch.testing.assert_close(torch.stack(compiled.losses), torch.stack(plain.losses))
