"""What every modifier of logits promises, checked on all that are registered."""

import pytest
import torch
from every_term import OURS, TERMS, THEIRS, batch_of, joined, random_outputs
from torch import Tensor

from trainables.errors import UserError
from trainables.methods.method import Method
from trainables.methods.registry import parse_method, term_class, term_names
from trainables.methods.term import LogitModifier
from trainables.models.outputs import Outputs
from trainables.settings import settings_of

MODIFIERS = [name for name in term_names() if issubclass(term_class(name), LogitModifier)]
SOFTMAX = [name for name in TERMS if term_class(name).reads_softmax()]


@pytest.fixture(params=MODIFIERS)
def modifier_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def modifier(modifier_name: str) -> LogitModifier:
    kind = term_class(modifier_name)
    return kind(kind.Config())


def some_logits(*shape: int, seed: int = 1) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 1


@pytest.mark.parametrize("shape", [(1, 2), (4, 10), (3, 100)])
def test_a_modifier_keeps_the_shape_and_changes_logits(
    modifier: LogitModifier, shape: tuple[int, int]
) -> None:
    logits = some_logits(*shape).requires_grad_()
    changed = modifier(logits)
    assert changed.shape == shape
    assert changed.dtype == torch.float32
    assert not torch.equal(changed, logits)
    assert torch.equal(changed, modifier(logits))
    changed.square().sum().backward()
    assert logits.grad.isfinite().all()


def test_a_modifier_treats_images_one_by_one(modifier: LogitModifier) -> None:
    logits = some_logits(5, 10)
    rows = torch.cat([modifier(row) for row in logits.split(1)])
    torch.testing.assert_close(modifier(logits), rows)


def test_a_modifier_takes_equal_logits(modifier: LogitModifier) -> None:
    logits = torch.ones(2, 10, requires_grad=True)
    changed = modifier(logits)
    changed.square().sum().backward()
    assert changed.isfinite().all()
    assert logits.grad.isfinite().all()


def test_a_modifier_of_bfloat16_logits(modifier: LogitModifier) -> None:
    logits = some_logits(4, 10).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        changed = modifier(logits)
    assert changed.dtype == torch.float32
    torch.testing.assert_close(changed, modifier(logits.float()))


def summands(method: Method, student: Outputs, teacher: Outputs) -> Tensor:
    torch.manual_seed(2)
    losses: Tensor = method(student, teacher, batch_of(torch.arange(4)))
    return losses


@pytest.mark.parametrize("name", TERMS)
def test_a_modifier_changes_the_terms_with_a_softmax_only(modifier_name: str, name: str) -> None:
    method = (
        f"{SOFTMAX[0]}+{name}+{modifier_name}" if name != SOFTMAX[0] else f"{name}+{modifier_name}"
    )
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    found = joined(method)
    plain = joined(method.removesuffix(f"+{modifier_name}"))
    assert found.parts == plain.parts
    assert found.needs == plain.needs
    losses, usual = summands(found, student, teacher), summands(plain, student, teacher)
    assert losses.isfinite().all()
    assert losses[0] == usual[0]  # the cross-entropy
    changed = {part for part, a, b in zip(found.parts, losses, usual, strict=True) if a != b}
    assert changed == {SOFTMAX[0], name} & set(SOFTMAX)


@pytest.mark.parametrize("name", SOFTMAX)
def test_modified_terms_follow_the_numbers_of_the_modifier(modifier_name: str, name: str) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    method = f"{name}+{modifier_name}"
    usual = summands(joined(method), student, teacher)
    for key, found in settings_of(term_class(modifier_name).Config).items():
        assert found.search is not None
        for value in found.search:
            changed = summands(
                joined(method, **{f"{modifier_name}.{key}": value}), student, teacher
            )
            assert not torch.equal(changed[1:], usual[1:]), (key, value)


def test_modified_losses_reach_the_student(modifier_name: str) -> None:
    for name in SOFTMAX:
        student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
        summands(joined(f"{name}+{modifier_name}"), student, teacher)[1:].sum().backward()
        assert student.logits.grad.isfinite().all()
        assert student.logits.grad.abs().sum() > 0


def test_a_modifier_needs_a_term_with_a_softmax(modifier_name: str) -> None:
    others = [name for name in TERMS if name not in SOFTMAX]
    for method in (modifier_name, *(f"{name}+{modifier_name}" for name in others)):
        with pytest.raises(UserError, match=f"'{modifier_name}' changes the logits.*join it"):
            parse_method(method)
    for name in SOFTMAX:
        assert set(parse_method(f"{modifier_name}+{name}")) == {name, modifier_name}
