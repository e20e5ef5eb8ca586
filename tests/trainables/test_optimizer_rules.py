"""What every update rule keeps, ours and other packages': a conformance suite."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.compression.chain import Chain
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import Diverged
from trainables.methods.term import STUDENT
from trainables.models.blueprint import Blueprint, build
from trainables.models.masks import masks
from trainables.models.outputs import Network
from trainables.optimizers.making import groups_of, make_optimizer, named_weights
from trainables.optimizers.registry import OPTIMIZERS, PREFIX, all_rule_settings, rule_settings
from trainables.training import Training
from trainables.training.updates import Updates

CPU = torch.device("cpu")
RULES = [*OPTIMIZERS]
RATE = 0.01
IMAGES, TARGET = (
    torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
    torch.arange(8) % 4,
)
Quick = Callable[..., TrialConfig]


class Grouped(Network):
    """A kernel of every kind: hidden, 1x1, in groups, depthwise; gains, biases, a lone number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.Conv2d(8, 8, 1, bias=False),
            nn.Conv2d(8, 8, 3, groups=8),
        )
        self.scale = nn.Parameter(torch.ones(()))
        self.classifier = nn.Linear(8, 4)

    def forward(self, images: Tensor, depth: int | None = None) -> Any:
        return self.classifier(self.layers(images).mean((2, 3))) * self.scale


def student(layout: torch.memory_format = torch.contiguous_format) -> Network:
    torch.manual_seed(0)
    return Grouped().to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def optimizer_of(network: Network, rule: str) -> torch.optim.Optimizer:
    config = TrialConfig(optimizer=rule, lr=RATE, weight_decay=0.01)
    return make_optimizer(config, named_weights(network), CPU)


def descend(network: Network, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """As a learner does it."""
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(IMAGES), TARGET).backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * group.get("lr_ratio", 1.0)
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rule", RULES)
def test_a_state_that_was_saved_goes_on(rule: str, layout: torch.memory_format) -> None:
    """10 steps, save, load without pickles, 10 steps are 20 steps."""
    straight, first, second = student(layout), student(layout), student(layout)
    descend(straight, optimizer_of(straight, rule), 20)
    optimizer = optimizer_of(first, rule)
    descend(first, optimizer, 10)
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    network, state = torch.load(file, weights_only=True)
    again = optimizer_of(second, rule)
    second.load_state_dict(network)
    again.load_state_dict(state)
    descend(second, again, 10)
    assert_same(second, straight)


@pytest.mark.parametrize("rule", RULES)
def test_it_learns(rule: str) -> None:
    network = student()
    before = F.cross_entropy(network(IMAGES), TARGET).item()
    descend(network, optimizer_of(network, rule), 30)
    assert F.cross_entropy(network(IMAGES), TARGET).item() < before - 0.05


@pytest.mark.parametrize("rule", RULES)
def test_weights_without_gradients_are_left_alone(rule: str) -> None:
    """No decay moves them, and once they have gradients they go as if it had just begun."""
    torch.manual_seed(0)
    starts, gradients = torch.randn(4, 6, 4), torch.randn(9, 6, 4)
    network = nn.Sequential(*(nn.Linear(4, 6, bias=False) for _ in starts))
    for layer, start in zip(network, starts, strict=True):
        layer.weight.data.copy_(start)
    network.classifier = network[-1]
    optimizer = optimizer_of(network, rule)  # type: ignore[arg-type]
    early, late = network[1].weight, network[2].weight
    for gradient in gradients[:3]:
        early.grad = gradient.clone()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert not torch.equal(early, starts[1])
    assert torch.equal(late, starts[2])
    moved = early.detach().clone()
    for gradient in gradients[3:]:
        late.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(early, moved)
    fresh = optimizer_of(network, rule)  # type: ignore[arg-type]
    early.data.copy_(starts[2])
    for gradient in gradients[3:]:
        early.grad, late.grad = gradient.clone(), None
        fresh.step()
    assert torch.equal(early, late)


@pytest.mark.parametrize("rule", RULES)
def test_the_layout_of_weights_changes_nothing(rule: str) -> None:
    networks = student(), student(torch.channels_last)
    gradients = [torch.randn_like(weight) for weight in networks[0].parameters()]
    for network in networks:
        optimizer = optimizer_of(network, rule)
        for turn in (1, -2, 3):
            for weight, gradient in zip(network.parameters(), gradients, strict=True):
                like = torch.empty_like(weight)  # its layout
                weight.grad = like.copy_(gradient * turn)
            optimizer.step()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_every_weight_has_a_rule(rule: str) -> None:
    network = student()
    weights = named_weights(network)
    groups = groups_of(optimizer_of(network, rule), weights, rule)
    assert "none" not in groups
    assert sum(group["values"] for group in groups.values()) == sum(
        weight.numel() for weight in network.parameters()
    )
    listed = [name for group in groups.values() for name in group["parameters"]]
    if len(groups) > 1:
        assert sorted(listed) == sorted(weight.name for weight in weights)
    else:
        assert [group["parameters"] for group in groups.values()] == ["all"]


def test_what_muon_and_soap_list() -> None:
    found = {
        rule: groups_of(optimizer_of(network, rule), named_weights(network), rule)
        for rule in ("muon", "soap", "sgd")
        for network in [student()]
    }
    # Not the first layer, the depthwise filters and the classifier.
    assert found["muon"]["muon"] == {
        "parameters": ["layers.3.weight", "layers.2.weight"],
        "values": 8 * 8 + 8 * 4 * 9,
    }
    assert found["soap"]["adamw"]["parameters"] == [
        *("scale", "layers.0.bias", "layers.1.weight", "layers.1.bias", "layers.2.bias"),
        *("layers.4.bias", "classifier.bias"),
    ]
    assert found["sgd"] == {
        "sgd": {
            "parameters": "all",
            "values": sum(weight.numel() for weight in student().parameters()),
        }
    }


def test_most_of_a_resnet_is_muons() -> None:
    network = build(Blueprint("resnet20"), 10, (3, 32, 32))
    groups = groups_of(optimizer_of(network, "muon"), named_weights(network), "muon")
    assert groups["muon"]["values"] > 0.98 * sum(w.numel() for w in network.parameters())
    assert "classifier.weight" in groups["adamw"]["parameters"]


# In a training


def train(config: TrialConfig, data: Dataset, teacher: Any = None) -> Training:
    steps = Chain(config.compression, config.chain).steps
    return Training(config, data, config.student, teacher, CPU, steps)


@pytest.mark.parametrize("rule", RULES)
def test_a_student_that_is_pruned_and_masked(
    digits: Dataset, quick: Quick, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimizer is made anew with what the cut leaves; masks hold after every step."""
    config = quick(
        compression="prune+sparsify", optimizer=rule, lr=RATE, train_fraction=0.1, weight_decay=0.1
    ).replace(
        **{"prune": 1.5, "prune.begin": 0.3, "prune.end": 0.3, "sparsify": 0.5}
        | {"sparsify.begin": 0.6, "sparsify.end": 0.6}
    )
    training = train(config, digits)
    held = [training.learner.updates.optimizers[STUDENT]]
    for _ in range(2):
        training.run_epoch()
        held.append(training.learner.updates.optimizers[STUDENT])
    assert held[0] is held[1]
    assert held[1] is not held[2]
    known = {id(w) for group in held[2].param_groups for w in group["params"]}
    assert known == {id(weight) for weight in training.student.parameters()}
    checked = 0
    after = Updates.__call__

    def update(*words: Any) -> None:
        nonlocal checked
        after(*words)
        for name, mask in masks(training.student).items():
            assert not training.student.get_parameter(f"{name}.weight")[~mask].any()
            checked += 1

    monkeypatch.setattr(Updates, "__call__", update)
    training.run_epoch()
    assert checked > 20


def rows(config: TrialConfig, data: Dataset, teacher: Any) -> tuple[Any, Any]:
    training = train(config, data, teacher)
    found = training.run_epoch()
    return found["term_losses"], training.student.state_dict()


@pytest.mark.parametrize("rule", RULES)
def test_a_process_that_is_used_again(
    digits: Dataset, quick: Quick, digits_teacher: Any, rule: str
) -> None:
    """With the adaptors of a method in the same optimizer."""
    config = quick(method="fitnet", teacher="resnet8", optimizer=rule, lr=RATE, train_fraction=0.05)
    first = rows(config, digits, digits_teacher.load())
    rows(config.replace(seed=5), digits, digits_teacher.load())
    again = rows(config, digits, digits_teacher.load())
    assert first[0] == again[0]
    for name, value in first[1].items():
        assert torch.equal(value, again[1][name])


@pytest.mark.parametrize("rule", RULES)
def test_networks_that_compute_in_bf16(digits: Dataset, quick: Quick, rule: str) -> None:
    """What a rule remembers is as exact as the weights are."""
    training = train(quick(optimizer=rule, lr=RATE, train_fraction=0.05, precision="bf16"), digits)
    training.run_epoch()
    states = [*training.learner.updates.optimizers[STUDENT].state.values()]
    kept = [value for state in states for entry in state.values() for value in listed(entry)]
    assert {tensor.dtype for tensor in kept} == {torch.float32}


def listed(entry: Any) -> list[Tensor]:
    """The tensors of an entry of a state."""
    entries = entry if isinstance(entry, list) else [entry]
    return [one for one in entries if isinstance(one, Tensor)]


def test_adaptors_are_listed(digits: Dataset, quick: Quick, digits_teacher: Any) -> None:
    config = quick(method="fitnet", teacher="resnet8", optimizer="muon")
    training = train(config, digits, digits_teacher.load())
    groups = json.loads(json.dumps(training.learner.updates.groups(STUDENT)))
    adaptors = {f"method.{name}" for name, _ in training.method.named_parameters()}
    assert adaptors
    assert adaptors <= {*groups["adamw"]["parameters"]}


@pytest.mark.parametrize("rule", ["soap", "shampoo"])
def test_gradients_that_are_no_numbers(digits: Dataset, quick: Quick, rule: str) -> None:
    training = train(quick(optimizer=rule, lr=RATE, train_fraction=0.05), digits)
    next(training.student.parameters()).data.fill_(torch.nan)
    with pytest.raises(Diverged, match=f"{rule} found no eigenvectors in epoch 1: .*lower lr"):
        training.run_epoch()


# Their settings


def test_what_two_rules_call_the_same_is_of_one_type() -> None:
    kinds: dict[str, set[type]] = {}
    for rule in RULES:
        for key, setting in rule_settings(rule).items():
            assert key.startswith(PREFIX)
            assert setting.help
            assert setting.check(key, setting.default) == setting.default
            kinds.setdefault(key, set()).add(setting.kind)
            if setting.search:
                assert [setting.check(key, end) for end in setting.search]
    assert all(len(kind) == 1 for kind in kinds.values()), kinds
    assert {*all_rule_settings()} == {*kinds}
