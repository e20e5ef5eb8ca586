"""Networks that learn beside the student, in a whole training."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.teachers.teacher import Teacher
from trainables.training import Training

Quick = Callable[..., TrialConfig]


def train(config: TrialConfig, dataset: Dataset, teacher: Teacher | None = None) -> Training:
    return Training(config, dataset, config.student, teacher, torch.device("cpu"))


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_peers_begin_elsewhere_and_leave_the_student_its_start(
    digits: Dataset, quick: Quick
) -> None:
    training = train(quick(method="dml", peers=2), digits)
    networks = [*training.learner.networks.values()]
    firsts = [next(network.parameters()) for network in networks]
    assert len({first.detach().numpy().tobytes() for first in firsts}) == 3
    assert_same_weights(training.student, train(quick(), digits).student)


def mutual_reference(
    networks: list[torch.nn.Module], inputs: Tensor, target: Tensor, lr: float, turns: bool
) -> None:
    """Gradient steps of every network on one batch, as the paper's algorithm has them."""

    def divergence(own: Tensor, others: list[Tensor]) -> Tensor:
        pairs = [(other.softmax(1), own.log_softmax(1)) for other in others]
        return sum((p * (p.log() - q)).sum() for p, q in pairs) / (len(own) * len(pairs))

    def now(network: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            return copy.deepcopy(network)(inputs).logits  # no trace in the statistics

    before = [now(network) for network in networks]
    for k, network in enumerate(networks):
        said = [now(other) for other in networks] if turns else before
        own = network(inputs).logits
        others = [logits for j, logits in enumerate(said) if j != k]
        loss = F.cross_entropy(own, target) + divergence(own, others)
        weights = [*network.parameters()]
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= lr * gradient


@pytest.mark.parametrize("update", ["in_turn", "together"])
def test_mutual_learning_step_by_step(digits: Dataset, quick: Quick, update: str) -> None:
    """Two steps of three networks of the zoo, running statistics included."""
    config = quick(method="dml", peers=2, update=update, peer="resnet8", momentum=0, epochs=4)
    config = config.replace(weight_decay=0.0, schedule="constant", lr=0.05)
    training = train(config, digits)
    training.learner.train()
    networks = [*training.learner.networks.values()]
    twins = [copy.deepcopy(network) for network in networks]
    for step in range(2):
        indices = training.stream.train_indices[32 * step : 32 * (step + 1)]
        (feed,) = training.stream(0, [indices])
        training.learner.step(feed, 0.1 * step)
        views = training.stream.views.images(digits.train.images, 0, indices)
        inputs = to_float(views, digits.mean, digits.std)
        mutual_reference(twins, inputs, training.stream.labels[indices], 0.05, update == "in_turn")
    for network, twin in zip(networks, twins, strict=True):
        ours, theirs = network.state_dict(), twin.state_dict()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize(
    ("method", "update"),
    [pytest.param("dml", "in_turn", marks=pytest.mark.soak), ("dml+mixup", "together")],
)
def test_the_whole_cohort_learns(digits: Dataset, quick: Quick, method: str, update: str) -> None:
    config = quick(
        method=method, peer="resnet8", update=update, epochs=5, train_fraction=1.0, lr=0.05
    )
    training = train(config, digits)
    rows = [training.run_epoch() for _ in range(5)]
    assert set(rows[0]["term_losses"]) == {"ce", "dml"}
    scores = training.test()
    assert set(scores) == {"student", "dml.1"}
    assert min(found.acc for found in scores.values()) > 0.85


def test_peers_follow_the_learning_rate(digits: Dataset, quick: Quick) -> None:
    config = quick(method="dml", peers=2, schedule="step", milestones="0.5", epochs=2, lr=1e-2)
    training = train(config, digits)
    assert [training.run_epoch()["lr"] for _ in range(2)] == pytest.approx([1e-2, 1e-3])
    groups = [one.param_groups[0] for one in training.learner.updates.optimizers.values()]
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-3, 1e-3])
    assert [group["momentum"] for group in groups] == [0.9, 0.9, 0.9]


def test_peers_wait_while_another_term_is_alone(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    config = quick(
        method="fitnet+dml",
        teacher="resnet8",
        student="wrn_10_1",
        epochs=2,
        **{"fitnet.schedule": "two_stage", "fitnet.hint_fraction": 0.5},
    )
    training = train(config, digits, digits_teacher.load())
    peer = training.learner.networks["dml.1"]
    before = copy.deepcopy(peer)
    row = training.run_epoch()
    assert row["term_losses"]["dml"] == 0
    assert_same_weights(peer, before)
    row = training.run_epoch()
    assert row["term_losses"]["dml"] > 0
    assert not torch.equal(next(peer.parameters()), next(before.parameters()))
