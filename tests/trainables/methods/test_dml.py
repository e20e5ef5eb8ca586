"""DML against float64 references: its losses, and whole steps of three networks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.methods.dml import dml_loss
from trainables.methods.method import Method
from trainables.methods.registry import peer_models, resolve_settings
from trainables.methods.term import STUDENT, Batch, Mix
from trainables.models.outputs import Network, Outputs, Shapes

Array = np.ndarray
CLASSES, PIXELS, BATCH = 4, 6, 5
SHAPES = Shapes(CLASSES, PIXELS, ())


def draw(*shape: int, seed: int) -> Array:
    return 2 * np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensor(values: Array) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def mutual(own: Array, others: list[Array], temperature: float) -> float:
    """The formula of the module, term by term."""
    total = 0.0
    for other in others:
        p, q = softmax(other / temperature), softmax(own / temperature)
        total += temperature**2 * float((p * (np.log(p) - np.log(q))).sum()) / len(own)
    return total / len(others)


def cross_entropy(logits: Array, target: Array) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(target)), target]).mean())


class Linear(Network):
    """A linear classifier of pixels, without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(PIXELS, CLASSES, bias=False)

    def forward(self, images: Tensor) -> Outputs:
        pixels = images.flatten(1)
        return Outputs(self.classifier(pixels), pixels, ())

    @property
    def weights(self) -> Array:
        return self.classifier.weight.detach().double().numpy().copy()


@pytest.mark.parametrize("shape", [(1, 2), (3, 10), (16, 7)])
@pytest.mark.parametrize("others", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_formula(shape: tuple[int, int], others: int, temperature: float) -> None:
    own, *rest = (draw(*shape, seed=seed) for seed in range(1 + others))
    found = dml_loss(tensor(own), [tensor(other) for other in rest], temperature)
    assert found.item() == pytest.approx(mutual(own, rest, temperature), rel=1e-5)


def test_two_classes_by_hand() -> None:
    """One network says 1 : 1, the other 3 : 1; KL(even ‖ 3 : 1) = log 2 − (log 3) / 2."""
    even, sure = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    assert dml_loss(sure, [even], 1.0).item() == pytest.approx(math.log(2) - math.log(3) / 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert dml_loss(even, [sure], 1.0).item() == pytest.approx(expected)
    assert dml_loss(even, [sure, even], 1.0).item() == pytest.approx(expected / 2)
    assert dml_loss(sure, [sure, sure], 1.0).item() == pytest.approx(0, abs=1e-7)


Networks = dict[str, Linear]


def made(**settings: object) -> tuple[Method, Networks]:
    """The method, a linear student and its linear peers."""
    torch.manual_seed(0)
    method = Method("dml", resolve_settings("dml", settings), SHAPES, None)
    return method, {name: Linear() for name in (STUDENT, *method.peers)}


def a_batch(mix: Mix | None = None) -> Batch:
    images = tensor(draw(BATCH, PIXELS, seed=7)).view(BATCH, 1, 2, 3)
    target = torch.tensor([0, 1, 2, 3, 1])
    return Batch(target, torch.arange(BATCH), epoch=0.0, progress=0.0, inputs=images, mix=mix)


def heard(networks: Networks, batch: Batch) -> tuple[dict[str, Outputs], Batch]:
    """What all networks say, and the batch with that of the peers."""
    said = {name: network(batch.inputs) for name, network in networks.items()}
    return said, batch._replace(peers={name: said[name] for name in said if name != STUDENT})


def step(method: Method, networks: Networks, batch: Batch, lr: float) -> None:
    """One step, as the interface of terms describes it."""

    def update(network: Linear, loss: Tensor) -> None:
        network.zero_grad()
        loss.backward()
        torch.optim.SGD(network.parameters(), lr).step()

    said, batch = heard(networks, batch)
    update(networks[STUDENT], method(said[STUDENT], None, batch).sum())
    for before, name in zip(networks, method.learners(batch.progress), strict=False):
        if method.takes_turns(name):
            said[before] = networks[before](batch.inputs)
        update(networks[name], method.peer_loss(name, said, batch))


@pytest.mark.parametrize("update", ["in_turn", "together"])
@pytest.mark.parametrize("peers", [1, 2])
@pytest.mark.parametrize(("beta", "temperature"), [(1.0, 1.0), (0.5, 2.0)])
def test_two_steps_of_linear_networks(
    update: str, peers: int, beta: float, temperature: float
) -> None:
    """The gradients of a linear network are known: xᵀ (p − y), and T xᵀ (p − q) of a divergence."""
    method, networks = made(peers=peers, beta=beta, temperature=temperature, update=update)
    batch, lr = a_batch(), 0.5
    weights = [network.weights for network in networks.values()]
    pixels = batch.inputs.flatten(1).double().numpy()
    labels = np.eye(CLASSES)[batch.target.numpy()]
    for _ in range(2):
        logits = [pixels @ w.T for w in weights]
        for k in range(len(weights)):
            seen = [pixels @ w.T for w in weights] if update == "in_turn" else logits
            own = softmax(seen[k] / temperature)
            gap = sum(own - softmax(z / temperature) for j, z in enumerate(seen) if j != k) / peers
            gradient = softmax(seen[k]) - labels + beta * temperature * gap
            weights[k] = weights[k] - lr * gradient.T @ pixels / BATCH
        step(method, networks, batch, lr)
    for network, expected in zip(networks.values(), weights, strict=True):
        np.testing.assert_allclose(network.weights, expected, rtol=1e-4, atol=1e-5)


def test_the_ways_of_updating_differ() -> None:
    ends = []
    for update in ("in_turn", "together"):
        method, networks = made(update=update)
        step(method, networks, a_batch(), 0.5)
        ends.append([network.weights for network in networks.values()])
    (student, peer), (same, other) = ends
    assert np.array_equal(student, same)  # the student comes first
    assert not np.allclose(peer, other)


def test_the_students_part_is_the_mutual_loss_alone() -> None:
    method, networks = made(peers=2, beta=0.3)
    said, batch = heard(networks, a_batch())
    ce, part = method(said[STUDENT], None, batch).tolist()
    pixels = batch.inputs.flatten(1).double().numpy()
    own, *others = (pixels @ network.weights.T for network in networks.values())
    assert ce == pytest.approx(cross_entropy(own, batch.target.numpy()), rel=1e-5)
    assert part == pytest.approx(0.3 * mutual(own, others, 1.0), rel=1e-5)


def test_mixed_labels_reach_the_peers() -> None:
    partner = torch.tensor([3, 0, 1, 4, 2])
    method, networks = made(update="together")
    said, batch = heard(networks, a_batch(Mix(partner, torch.tensor(0.3))))
    found = method.peer_loss("dml.1", said, batch).item()
    pixels, target = batch.inputs.flatten(1).double().numpy(), batch.target.numpy()
    other, own = (pixels @ network.weights.T for network in networks.values())
    ce = 0.3 * cross_entropy(own, target) + 0.7 * cross_entropy(own, target[partner.numpy()])
    assert found == pytest.approx(ce + mutual(own, [other], 1.0), rel=1e-5)


@pytest.mark.parametrize("peer", [None, "resnet8"])
def test_peers_are_named_from_settings_alone(peer: str | None) -> None:
    found = peer_models("kd+dml", resolve_settings("kd+dml", {"peers": 3, "peer": peer}))
    assert found == {"dml.1": peer, "dml.2": peer, "dml.3": peer}
    assert peer_models("kd", resolve_settings("kd", {})) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peer": "resnet9"}, r"dml\.peer: unknown model 'resnet9'"),
        ({"peers": 0}, "peers: expected a whole number from 1 to 7, got 0"),
        ({"update": "alternately"}, "update: expected one of in_turn, together"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Method("dml", resolve_settings("dml", settings), SHAPES, None)
