"""Every registered part of a method, where each class is a question by itself: served or refused.

A new term is covered by its line in the registry; those that are refused are named.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from trainables.errors import UserError
from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings, term_class, term_names
from trainables.methods.term import Batch, LogitModifier, Term
from trainables.models.features import with_features
from trainables.models.outputs import Network, Outputs
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.tasks.multi_label import MULTI_LABEL

IMAGE, CLASSES, IMAGES = (3, 16, 16), 4, 8
REFUSED = {
    *("crd", "dist", "dkd", "ls", "srd", "srd_dist", "srd_kl", "srd_pmse", "ttm", "wttm"),
}
SERVED = sorted(set(term_names()) - REFUSED)


def network(name: str) -> Network:
    torch.manual_seed(0)
    return create_model(name, CLASSES, IMAGE)


def made(name: str, **settings: object) -> Method:
    """The method of one part; a modifier stands beside KD."""
    method = f"kd+{name}" if issubclass(term_class(name), LogitModifier) else name
    shapes = [output_shapes(network(one), IMAGE) for one in ("resnet8", "wrn_10_1")]
    torch.manual_seed(1)
    return Method(method, resolve_settings(method, settings), *shapes, task=MULTI_LABEL)


def batch() -> Batch:
    draw = torch.Generator().manual_seed(3)
    target = (torch.rand(IMAGES, CLASSES, generator=draw) < 0.4).to(torch.uint8)
    return Batch(
        *(target, torch.arange(IMAGES), 0.0, 0.0),
        task=MULTI_LABEL,
        maps=torch.rand(IMAGES, 1, *IMAGE[1:], generator=draw),
        normalisation=((0.5,) * 3, (0.25,) * 3),
    )


@pytest.mark.parametrize("name", SERVED)
def test_it_serves_questions(
    name: str, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    method, student, teacher = made(name), network("resnet8"), network("wrn_10_1").eval()
    method.attach(teacher, batch().target, torch.arange(IMAGES))
    images = torch.randn(IMAGES, *IMAGE)
    with torch.no_grad():
        taught: Outputs = teacher(images)
        peers = {one: network("resnet8")(images) for one in method.peers}
    with no_waiting():
        drawn = method.draw(batch())._replace(inputs=images, peers=peers)
        asked, seen = method.asked("student"), method.images(images, drawn)
        said = with_features(
            student, seen, asked, None, learning=True, chosen=taught.logits.argmax(1)
        )
        losses: Tensor = method(said, taught, drawn)
        losses.sum().backward()
    assert losses.isfinite().all()
    assert all(weight.grad is not None for weight in student.classifier.parameters())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_it_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=rf": {name} takes it that an image is of one class, and "):
        made(name)


def test_whoever_reads_logits_and_says_nothing_is_refused() -> None:
    class Theirs(Term):
        needs = frozenset({"logits"})

    class Features(Term):
        needs = frozenset({"embedding"})

    shapes = output_shapes(network("resnet8"), IMAGE)
    assert Theirs(None, shapes, shapes).one_of_many
    assert not Features(None, shapes, shapes).one_of_many


def test_both_forms_of_kd_are_one() -> None:
    outputs = [network(name)(torch.randn(IMAGES, *IMAGE)) for name in ("resnet8", "wrn_10_1")]
    losses = [made("kd", form=form)(*outputs, batch()) for form in ("softmax", "bernoulli")]
    torch.testing.assert_close(*losses)


def test_peers_learn_from_questions() -> None:
    """The mutual loss is KD's between the two, each way."""
    method = made("dml", beta=2.0, temperature=3.0)
    ours, theirs = (network(name)(torch.randn(IMAGES, *IMAGE)) for name in ("resnet8", "wrn_10_1"))
    said = batch()._replace(peers={"dml.1": theirs})
    kd = made("kd", alpha=1.0, temperature=3.0)
    found = method(ours, None, said)[1]
    torch.testing.assert_close(found, 2 * kd(ours, theirs, batch())[1])
    back = method.peer_loss("dml.1", {"student": ours, "dml.1": theirs}, said)
    cross_entropy = MULTI_LABEL.cross_entropy(theirs.logits, said.target)
    torch.testing.assert_close(back - cross_entropy, 2 * kd(theirs, ours, batch())[1])
