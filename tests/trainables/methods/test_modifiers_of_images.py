"""What every modifier of images promises, checked on all that are registered."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import pytest
import torch
from every_term import (
    CLASSES,
    IMAGE,
    OURS,
    PARTS,
    TERMS,
    THEIRS,
    batch_of,
    gradients,
    joined,
    random_outputs,
    some_images,
    tensors,
)

from trainables.errors import UserError
from trainables.methods.registry import parse_method, term_class, term_names
from trainables.methods.term import Batch, InputModifier, cross_entropy
from trainables.models.registry import create_model
from trainables.settings import settings_of

INPUT_MODIFIERS = [name for name in term_names() if issubclass(term_class(name), InputModifier)]


class Changer(NamedTuple):
    """A modifier of images in one of its forms.

    Attributes:
        name: in the registry.
        settings: by full key; of the defaults, one is replaced by another choice.
    """

    name: str
    settings: dict[str, object]

    def build(self) -> InputModifier:
        kind = term_class(self.name)
        own = {key.partition(".")[2]: value for key, value in self.settings.items()}
        return kind(kind.Config(**own))

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for value in self.settings.values())])


def changers() -> Iterator[Changer]:
    for name in INPUT_MODIFIERS:
        yield Changer(name, {})
        for key, found in settings_of(term_class(name).Config).items():
            for choice in found.choices:
                if choice != found.default:
                    yield Changer(name, {f"{name}.{key}": choice})


@pytest.fixture(params=list(changers()), ids=str)
def changer(request: pytest.FixtureRequest) -> Changer:
    return request.param


def drawn(modifier: InputModifier, size: int, seed: int = 3) -> Batch:
    torch.manual_seed(seed)
    return modifier.draw(batch_of(torch.arange(size) % CLASSES))


def test_an_input_modifier_declares_what_it_reads(changer: Changer) -> None:
    assert isinstance(term_class(changer.name).needs, frozenset)
    assert term_class(changer.name).needs <= PARTS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_changed_images_keep_shape_and_dtype(
    changer: Changer, size: int, dtype: torch.dtype
) -> None:
    modifier = changer.build()
    images = some_images(size).to(dtype).to(memory_format=torch.channels_last)
    before = images.clone()
    changed = modifier(images, drawn(modifier, size))
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert changed.isfinite().all()
    assert changed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    assert size < 8 or not torch.equal(changed, images)


def test_a_draw_keeps_what_the_batch_says(changer: Changer) -> None:
    given = batch_of(torch.arange(5))
    batch = changer.build().draw(given)
    assert torch.equal(batch.target, given.target)
    assert torch.equal(batch.indices, given.indices)
    assert (batch.epoch, batch.progress) == (given.epoch, given.progress)
    assert term_class(changer.name).mixes_labels or batch.mix is None


def test_draws_come_from_torchs_generator(changer: Changer) -> None:
    first, second = changer.build(), changer.build()
    second.load_state_dict(first.state_dict())
    images = some_images(5)
    changed = [one(images, drawn(one, 5)) for one in (first, second, first)]
    assert torch.equal(changed[0], changed[1])
    assert torch.equal(changed[0], changed[2])
    state = torch.random.get_rng_state()
    first(images, drawn(first, 5))
    torch.random.set_rng_state(state)
    drawn(first, 5)
    assert torch.equal(torch.random.get_rng_state(), state), "only `draw` draws"


def test_labels_reach_a_student_that_sees_changed_images(
    changer: Changer, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    modifier = changer.build()
    network = create_model("wrn_10_0.5", CLASSES, IMAGE)
    with no_waiting():
        batch = drawn(modifier, 4)
        loss = cross_entropy(network(modifier(some_images(4), batch)).logits, batch)
        loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(network))
    assert len(gradients(network)) == len([*network.parameters()])


@pytest.mark.parametrize("name", TERMS)
def test_terms_join_a_modifier_of_images_or_say_why_not(changer: Changer, name: str) -> None:
    method = f"{name}+{changer.name}"
    kind, modifier = term_class(name), changer.build()
    if kind.one_label and modifier.mixes_labels:
        with pytest.raises(UserError, match=f"'{name}' reads the one true class"):
            parse_method(method)
        return
    serves = modifier.plain_serves
    if modifier.plain_teacher and serves is not None and kind.needs - serves:
        with pytest.raises(UserError, match="terms that read logits only"):
            joined(method, **changer.settings)
        return
    made = joined(method, **changer.settings)
    assert made.parts == ("ce", name)
    assert made.needs == made.terms[name].needs >= kind.needs
    assert made.plain_teacher == modifier.plain_teacher
    torch.manual_seed(2)
    batch = made.draw(batch_of(torch.arange(4)))
    batch = batch._replace(inputs=made.images(batch.inputs, batch))
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    losses = made(student, made.taught(teacher, batch), batch)
    assert losses.isfinite().all()
    losses[1].backward()
    assert any(part.grad is not None and part.grad.abs().sum() > 0 for part in tensors(student))
