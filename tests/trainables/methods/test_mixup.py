"""Mixup: what is mixed, with what, how much, and what a teacher makes of it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.methods.kd import kd_loss
from trainables.methods.method import Method
from trainables.methods.mixup import Mixup, MixupConfig
from trainables.methods.registry import parse_method, resolve_settings
from trainables.methods.term import Batch, Mix, cross_entropy
from trainables.models.outputs import Outputs, Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes

IMAGE = (3, 16, 16)
SHAPES = Shapes(10, 8, ((4, 8, 8),))
SIZE = 6


def a_batch(size: int = SIZE) -> Batch:
    return Batch(torch.arange(size) % 10, torch.arange(size), epoch=0.0, progress=0.0)


def drawn(seed: int = 0, size: int = SIZE, **settings: object) -> tuple[Mixup, Batch]:
    modifier = Mixup(MixupConfig(**settings))
    torch.manual_seed(seed)
    return modifier, modifier.draw(a_batch(size))


def shares(alpha: float, draws: int = 4000) -> Tensor:
    modifier = Mixup(MixupConfig(alpha=alpha))
    torch.manual_seed(0)
    mixes = [modifier.draw(a_batch(1)).mix for _ in range(draws)]
    return torch.stack([mix.share for mix in mixes]).double()


def method(name: str, student: Shapes = SHAPES, **settings: object) -> Method:
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return Method(name, resolve_settings(name, values), student, student)


def uint8_views(size: int = SIZE) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    return torch.randint(256, (size, *IMAGE), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_mixed_images(seed: int) -> None:
    modifier, batch = drawn(seed)
    images = torch.randn(SIZE, *IMAGE, dtype=torch.float64)
    plain, partner, share = images.numpy(), batch.mix.partner.numpy(), batch.mix.share.item()
    assert sorted(partner) == list(range(SIZE))
    expected = share * plain + (1 - share) * plain[partner]
    np.testing.assert_allclose(modifier(images, batch).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_mixed_labels(seed: int) -> None:
    _, batch = drawn(seed)
    logits = torch.randn(SIZE, 10)
    z, target, partner = logits.double().numpy(), batch.target.numpy(), batch.mix.partner.numpy()
    logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    rows, share = np.arange(SIZE), batch.mix.share.item()
    expected = -share * logs[rows, target].mean() - (1 - share) * logs[rows, target[partner]].mean()
    assert cross_entropy(logits, batch).item() == pytest.approx(expected, rel=1e-6)
    made = method("mixup")
    assert made.parts == ("ce",)
    found = made(Outputs(logits, torch.zeros(SIZE, 8), ()), None, batch)
    assert found.tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize(("share", "own"), [(1.0, True), (0.0, False)])
def test_the_ends_are_exact(share: float, own: bool) -> None:
    partner = torch.tensor([1, 2, 0])
    mix = Mix(partner, torch.tensor(share))
    values = torch.randn(3, 5)
    assert torch.equal(mix(values), values if own else values[partner])


def test_every_step_draws_anew_and_a_seed_repeats_it() -> None:
    modifier = Mixup(MixupConfig())
    torch.manual_seed(5)
    first, second = modifier.draw(a_batch()).mix, modifier.draw(a_batch()).mix
    assert first.share != second.share
    assert not torch.equal(first.partner, second.partner)
    torch.manual_seed(5)
    again = modifier.draw(a_batch()).mix
    assert torch.equal(again.partner, first.partner)
    assert again.share == first.share


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 8.0])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    found = shares(alpha)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.mean().item() == pytest.approx(0.5, abs=0.03)
    assert found.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_the_shape_of_the_distribution() -> None:
    uniform = torch.histc(shares(1.0), bins=10, min=0, max=1) / 4000
    assert (uniform - 0.1).abs().max() < 0.02
    classic = shares(0.2)
    assert ((classic < 0.1) | (classic > 0.9)).double().mean() > 0.6  # two peaks
    assert ((classic > 0.4) & (classic < 0.6)).double().mean() < 0.08
    extreme = shares(0.01)
    assert ((extreme < 0.01) | (extreme > 0.99)).double().mean() > 0.93
    assert (extreme == 0.5).sum() == 0


def test_function_matching_ends_where_student_and_teacher_agree() -> None:
    """The teacher's answer to the mixed image is the target, not a mixture of answers."""
    torch.manual_seed(0)
    network = create_model("resnet8", 10, IMAGE).eval()
    shapes = output_shapes(network, IMAGE)
    views = to_float(uint8_views(), (0.5,) * 3, (0.25,) * 3)
    losses = {}
    for form in ("image", "logits"):
        made = method("kd+mixup", shapes, kd__alpha=1.0, mixup__teacher_mix=form)
        torch.manual_seed(1)
        batch = made.draw(a_batch())
        images = made.images(views, batch)
        with torch.no_grad():
            student = network(images)
            teacher = network(views if made.plain_teacher else images)
            ce, losses[form] = made(student, made.taught(teacher, batch), batch).tolist()
        assert ce == 0
    assert abs(losses["image"]) < 1e-6
    assert losses["logits"] > 1e-4  # the network is not linear


def test_mixed_logits_of_the_teacher() -> None:
    made = method("kd+mixup", kd__alpha=1.0, kd__temperature=2, mixup__teacher_mix="logits")
    assert made.plain_teacher
    torch.manual_seed(0)
    batch = made.draw(a_batch())
    teacher = Outputs(torch.randn(SIZE, 10), torch.randn(SIZE, 8), (torch.randn(SIZE, 4, 8, 8),))
    taught = made.taught(teacher, batch)
    z, share = teacher.logits.double(), batch.mix.share.double()
    expected = share * z + (1 - share) * z[batch.mix.partner]
    torch.testing.assert_close(taught.logits.double(), expected, rtol=1e-6, atol=1e-6)
    assert [part for part in taught if part is not None] == [taught.logits]
    student = Outputs(torch.randn(SIZE, 10), torch.randn(SIZE, 8), ())
    loss = made(student, taught, batch)[1]
    torch.testing.assert_close(loss, kd_loss(student.logits, expected.float(), 2.0))


def test_half_precision_logits_are_mixed_in_full_precision() -> None:
    made = method("kd+mixup", mixup__teacher_mix="logits")
    torch.manual_seed(0)
    batch = made.draw(a_batch())
    low = torch.randn(SIZE, 10).bfloat16()
    taught = made.taught(Outputs(low, None, ()), batch).logits
    assert torch.equal(taught, batch.mix(low.float()))


def test_a_teacher_that_sees_the_mixed_image_keeps_its_answers() -> None:
    made = method("kd+mixup")
    assert not made.plain_teacher
    teacher = Outputs(torch.randn(SIZE, 10), torch.randn(SIZE, 8), ())
    assert made.taught(teacher, made.draw(a_batch())) is teacher


def test_any_normalisation_shows_the_same_mixed_image() -> None:
    """Mixing commutes with it, so that a teacher with another one sees the student's image."""
    modifier, batch = drawn()
    views = uint8_views()
    ours, theirs = (
        ((0.1, 0.5, 0.9), (0.2, 0.3, 0.4)),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
    pixels = []
    for mean, std in (ours, theirs):
        changed = modifier(to_float(views, mean, std), batch)
        scale, shift = (torch.tensor(value).view(3, 1, 1) for value in (std, mean))
        pixels.append(changed * scale + shift)
    torch.testing.assert_close(pixels[0], pixels[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["dkd", "crd"])
def test_terms_of_one_true_class_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' reads the one true class.*'mixup' gives it two"):
        parse_method(f"{name}+mixup")


def test_mixed_logits_serve_terms_of_logits_only() -> None:
    with pytest.raises(UserError, match=r"mixup with the teacher's logits .* reads stages"):
        method("at+mixup", mixup__teacher_mix="logits")
    assert method("at+mixup").needs == {"stages"}
