"""What every term promises, checked on all that are registered.

A new term is covered by its line in the registry; nothing here names one.
"""

import copy
import dataclasses
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from every_term import (
    CLASSES,
    IMAGE,
    OURS,
    PEERS,
    TERMS,
    THEIRS,
    Classifier,
    attached,
    batch_of,
    build,
    converted,
    loss_of,
    random_outputs,
    tensors,
)
from torch import Tensor

from trainables.methods.registry import term_class, term_names
from trainables.methods.term import STUDENT, Batch, Term
from trainables.models.outputs import Outputs
from trainables.models.registry import create_model
from trainables.settings import read, settings_of

PEERED = [name for name in TERMS if term_class(name).peers(term_class(name).Config())]


def peer_losses(term: Term, student: Outputs, batch: Batch) -> list[Tensor]:
    """Of the batch's peers, when the student's update has added 0.1 to its first logit."""
    if not term.peers(term.config):
        return []
    updated = student._replace(logits=student.logits + 0.1 * torch.eye(1, CLASSES))
    said = {STUDENT: updated if term.takes_turns else student, **batch.peers}
    return [
        term.peer_loss(own, {other: said[other] for other in said if other != name}, batch)
        for name, own in batch.peers.items()
    ]


def all_losses(term: Term, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    loss = loss_of(term, student, teacher, target)
    return torch.stack([loss, *peer_losses(term, student, batch_of(target))])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_finite_float32_scalar(term: Term, batch: int) -> None:
    student, teacher = random_outputs(OURS, batch, 1), random_outputs(THEIRS, batch, 2)
    loss = loss_of(term, student, teacher, torch.arange(batch))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    gradients = [part.grad for part in tensors(student) if part.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_agreeing_networks_give_finite_gradients(name: str) -> None:
    term = build(name, OURS, OURS)
    student = random_outputs(OURS, 3, 1)
    loss = loss_of(term, student, converted(student, torch.float32), torch.arange(3))
    loss.backward()
    assert loss.isfinite()
    assert all(part.grad.isfinite().all() for part in tensors(student) if part.grad is not None)


def test_bfloat16_outputs(term: Term) -> None:
    """As under autocast: half of the mantissa is lost in the inputs, none in the loss."""
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    low = [converted(outputs, torch.bfloat16) for outputs in (student, teacher)]
    exact = [converted(outputs, torch.float32) for outputs in low]
    target = torch.arange(4)
    twin = copy.deepcopy(term)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(twin, *low, target)
    assert loss.dtype == torch.float32
    tolerance = 0.05 if list(term.parameters()) else 1e-5  # adaptors compute in bfloat16
    torch.testing.assert_close(loss, loss_of(term, *exact, target), rtol=tolerance, atol=1e-6)


def test_is_deterministic(name: str, term: Term) -> None:
    torch.manual_seed(1)
    twin = build(name, OURS, THEIRS)
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    losses = [all_losses(one, student, teacher, torch.arange(4)) for one in (term, twin)]
    assert torch.equal(*losses)


def test_state_dict_round_trip(name: str, term: Term) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    target = torch.arange(4)
    # Past its first state, as in the middle of a training.
    optimizer = torch.optim.SGD([*term.parameters(), *tensors(student)], lr=0.01)
    all_losses(term, student, teacher, target).sum().backward()
    optimizer.step()
    torch.manual_seed(99)
    twin = build(name, OURS, THEIRS)
    twin.load_state_dict(term.state_dict())
    losses = [all_losses(one.eval(), student, teacher, target) for one in (term, twin)]
    assert torch.equal(*losses)


def test_a_step_never_waits_for_the_device(
    term: Term, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    target = torch.arange(4)
    with no_waiting():
        for _ in range(2):
            loss_of(term, student, teacher, target).backward()
            for loss in peer_losses(term, student, batch_of(target)):
                loss.backward()


def test_takes_a_share_of_the_cross_entropy_or_none(term: Term) -> None:
    assert 0 <= term.ce_share <= 1


@pytest.mark.parametrize("name", term_names())
def test_settings_are_complete(name: str) -> None:
    kind = term_class(name).Config
    assert dataclasses.is_dataclass(kind)
    assert set(settings_of(kind)) == {field.name for field in dataclasses.fields(kind)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, 0)
    for key, found in settings_of(kind).items():
        assert len(found.help) > 3, key
        assert found.check(key, found.default) == found.default
        if found.search is not None:
            low, high = found.search
            assert low < high, key
            assert not found.log or low > 0, key
            assert read(kind, {key: low}) == {key: low}
            assert read(kind, {key: high}) == {key: high}


def test_the_loss_follows_every_number_of_its_config(name: str) -> None:
    """No setting is without effect: another choice gives another loss, or counts at other times."""
    kind = term_class(name)
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)

    def made(config: object) -> Term:
        torch.manual_seed(1)
        return attached(kind(config, OURS, THEIRS), Classifier(THEIRS))

    def loss(term: Term) -> Tensor:
        return all_losses(term, student, teacher, torch.arange(4))

    usual = made(kind.Config())
    expected = loss(usual)
    for key, found in settings_of(kind.Config).items():
        values = [choice for choice in found.choices if choice != found.default]
        if found.search is not None:
            values = [value for value in found.search if value != found.default]
        for value in values:
            changed = made(kind.Config(**read(kind.Config, {key: value})))
            same = torch.equal(loss(changed), expected)
            assert changed.stretches != usual.stretches or not same, (key, value)


@pytest.mark.parametrize("name", term_names())
def test_cites_its_paper(name: str) -> None:
    text = sys.modules[term_class(name).__module__].__doc__ or ""
    assert re.search(r"arXiv:? ?\d{4}\.\d{4,5}|\b[A-Z][A-Za-z]*[A-Z]\w* (19|20)\d\d\b", text)
    title = text.splitlines()[0]
    assert ": " in title, "`kdsweep methods` shows what stands after the colon"


@pytest.fixture(params=PEERED)
def peered(request: pytest.FixtureRequest) -> Term:
    torch.manual_seed(1)
    return build(request.param, OURS, THEIRS)


def test_peers_have_names_and_models(peered: Term) -> None:
    for name, model in peered.peers(peered.config).items():
        assert "." not in name
        assert name != STUDENT
        create_model(model or "wrn_10_0.5", CLASSES, IMAGE)


def reached(outputs: Outputs) -> bool:
    return any(part.grad is not None and part.grad.any() for part in tensors(outputs))


def test_the_students_loss_leaves_the_peers_alone(peered: Term) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    batch = batch_of(torch.arange(4))
    peered(student, teacher, batch).backward()
    assert reached(student)
    assert not any(map(reached, batch.peers.values()))


def test_a_peers_loss_reaches_that_peer_only(peered: Term) -> None:
    student = random_outputs(OURS, 4, 1)
    for name in PEERS:
        batch = batch_of(torch.arange(4))
        loss = peer_losses(peered, student, batch)[PEERS.index(name)]
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        loss.backward()
        assert batch.peers[name].logits.grad.isfinite().all()
        assert [other for other, said in batch.peers.items() if reached(said)] == [name]
    assert not reached(student)


def test_no_graph_outlives_the_step(name: str, term: Term) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    all_losses(term, student, teacher, torch.arange(4)).sum().backward()
    copy.deepcopy(term)  # refuses tensors with a graph
