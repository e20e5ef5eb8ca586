"""IG: what the overlay is, whom it meets, and which of the teacher's outputs stay right."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.attribution.map_settings import STEPS
from trainables.data.views import normalised, to_float
from trainables.errors import UserError
from trainables.methods.ig import IG, IGConfig, overlay_of
from trainables.methods.method import Method
from trainables.methods.registry import needs_teacher, resolve_settings
from trainables.methods.term import Batch
from trainables.models.outputs import Outputs, Shapes

SHAPES = Shapes(10, 8, ((4, 8, 8),))
OURS = ((0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
THEIRS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PAPER = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
"""A map that one can raise to powers by hand."""


def some_maps(images: int, side: int = 6) -> Tensor:
    return torch.rand(images, 1, side, side, generator=torch.Generator().manual_seed(1))


def some_views(images: int, side: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randint(256, (images, 3, side, side), generator=draw, dtype=torch.uint8)


def a_batch(maps: Tensor, normalisation=OURS) -> Batch:
    images = torch.arange(len(maps))
    return Batch(images % 10, images, 0.0, 0.0, maps=maps, normalisation=normalisation)


def drawn(maps: Tensor, seed: int = 0, **settings: object) -> tuple[IG, Batch]:
    modifier = IG(IGConfig(**settings))
    torch.manual_seed(seed)
    return modifier, modifier.draw(a_batch(maps))


def method(name: str, **settings: object) -> Method:
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return Method(name, resolve_settings(name, values), SHAPES, SHAPES)


def pixels_of(images: Tensor, normalisation=OURS) -> Tensor:
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in normalisation)
    return images * std + mean


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (1.0, [[0, 0.25], [0.5, 1]]),
        (2.0, [[0, 1 / 16], [0.25, 1]]),
        (1.5, [[0, 0.125], [2**1.5 / 8, 1]]),
    ],
)
def test_maps_to_a_power_stretched(exponent: float, expected: list[list[float]]) -> None:
    found, seen = overlay_of(PAPER[None, None], torch.full((1, 1, 1, 1), exponent))
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))
    assert seen.item()


def test_the_least_value_becomes_zero_whatever_it_is() -> None:
    maps = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    found, _ = overlay_of(maps, torch.full((1, 1, 1, 1), 2.0))
    torch.testing.assert_close(found.flatten(), torch.tensor([0, 3 / 8, 1]))


def test_the_scale_of_a_map_does_not_matter() -> None:
    maps, power = some_maps(4), torch.full((4, 1, 1, 1), 1.7)
    torch.testing.assert_close(overlay_of(maps, power)[0], overlay_of(maps * 9, power)[0])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_a_constant_map_leaves_the_image_as_it_is(value: float) -> None:
    maps = some_maps(3)
    maps[1] = value
    modifier, batch = drawn(maps, probability=1.0)
    images = to_float(some_views(3), *OURS)
    changed = modifier(images, batch)
    assert changed.isfinite().all()
    assert [torch.equal(a, b) for a, b in zip(changed, images, strict=True)] == [False, True, False]


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_an_overlay_in_pixels(share: float) -> None:
    """x in [0, 1], as the formula has it, for each image with its own exponent."""
    maps, views = some_maps(5), some_views(5)
    modifier, batch = drawn(maps, probability=1.0, share=share)
    changed = pixels_of(modifier(to_float(views, *OURS), batch)).double().numpy()
    torch.manual_seed(0)
    power = np.exp(torch.rand(2, 5)[1].double().numpy() * math.log(2)).reshape(5, 1, 1, 1)
    raised = maps.double().numpy() ** power
    low, high = raised.min((2, 3), keepdims=True), raised.max((2, 3), keepdims=True)
    expected = share * views.numpy() / 255 + (1 - share) * (raised - low) / (high - low)
    np.testing.assert_allclose(changed, expected, atol=2e-6)


def test_nothing_at_zero_and_everything_at_one() -> None:
    maps, images = some_maps(40), to_float(some_views(40), *OURS)
    never, batch = drawn(maps, probability=0.0)
    assert torch.equal(never(images, batch), images)
    always, batch = drawn(maps, probability=1.0, share=0.0)
    torch.testing.assert_close(
        pixels_of(always(images, batch)), batch.overlay.pixels.expand(-1, 3, -1, -1)
    )
    nothing, batch = drawn(maps, probability=1.0, share=1.0)
    assert torch.equal(nothing(images, batch), images)


def test_how_often_and_how_strongly() -> None:
    maps = PAPER.expand(4000, 1, 2, 2)
    _, batch = drawn(maps, probability=0.1)
    assert (batch.overlay.share > 0).float().mean().item() == pytest.approx(0.1, abs=0.015)
    exponents = (batch.overlay.pixels[:, 0, 1, 0]).log2() / -1  # (2 / 4)^e
    assert exponents.min() >= 1 - 1e-5
    assert exponents.max() <= 2 + 1e-5
    logs = exponents.log()
    assert logs.mean().item() == pytest.approx(math.log(2) / 2, abs=0.01)
    assert logs.var().item() == pytest.approx(math.log(2) ** 2 / 12, rel=0.06)  # uniform
    _, batch = drawn(maps, exponent=1.0)
    torch.testing.assert_close(batch.overlay.pixels[0, 0], PAPER / 4)


def test_an_image_without_an_overlay_is_bit_for_bit_the_same() -> None:
    images = to_float(some_views(200), *OURS)
    modifier, batch = drawn(some_maps(200), probability=0.3)
    changed, left = modifier(images, batch), batch.overlay.share.flatten() == 0
    assert 100 < left.sum() < 180
    assert torch.equal(changed[left], images[left])
    assert (changed[~left] != images[~left]).flatten(1).any(1).all()


def test_any_normalisation_shows_the_same_overlay() -> None:
    modifier, batch = drawn(some_maps(8), probability=0.5)
    views = some_views(8)
    shown = [
        pixels_of(modifier(to_float(views, *n), batch._replace(normalisation=n)), n)
        for n in (OURS, THEIRS)
    ]
    torch.testing.assert_close(*shown, rtol=0, atol=1e-6)


def test_bytes_and_fractions_are_normalised_alike() -> None:
    views = some_views(3)
    torch.testing.assert_close(normalised(views / 255, *THEIRS), to_float(views, *THEIRS))
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(normalised(grey, *OURS), normalised(grey.expand(-1, 3, -1, -1), *OURS))


# Beside other parts


def test_it_reads_a_teacher_even_alone() -> None:
    assert needs_teacher("ig")
    with pytest.raises(UserError, match="method 'ig' needs a teacher; set 'teacher'"):
        Method("ig", resolve_settings("ig", {}), SHAPES, None)
    made = method("ig")
    assert (made.needs, made.parts) == (frozenset(), ("ce",))
    assert made.map_settings == {
        "target": "label",
        "baseline": "mean",
        "steps": STEPS,
        "alignment": "aligned",
    }
    assert method("kd").map_settings == {}


def test_what_the_teacher_says_to_the_plain_view_is_taught() -> None:
    """Its attention, too: the paper's KD&IG&AT."""
    made = method("kd+ig+at")
    assert made.plain_teacher
    batch = made.draw(a_batch(some_maps(4)))
    said = Outputs(torch.randn(4, 10), torch.randn(4, 8), (torch.rand(4, 4, 8, 8),))
    assert made.taught(said, batch) is said
    assert not method("kd+ig", ig__teacher_sees="overlay").plain_teacher


def test_overlaid_images_are_mixed() -> None:
    made = method("kd+ig+mixup", mixup__teacher_mix="logits", ig__probability=1.0)
    torch.manual_seed(0)
    batch = made.draw(a_batch(some_maps(6)))
    images = to_float(some_views(6), *OURS)
    overlaid = batch.overlay(images, OURS)
    assert torch.equal(made.images(images, batch), batch.mix(overlaid))
    with pytest.raises(UserError, match="ig and mixup do not agree on whether the teacher sees"):
        method("kd+ig+mixup")
    with pytest.raises(UserError, match=r"mixup with the teacher's logits .* reads logits, stages"):
        method("kd+at+ig+mixup", mixup__teacher_mix="logits")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ig__probability": 1.1}, "ig.probability: expected a number from 0 to 1, got 1.1"),
        ({"ig__exponent": 0.5}, "ig.exponent: expected a number >= 1, got 0.5"),
        ({"ig__alignment": "no"}, "ig.alignment: expected one of aligned, shuffled, got 'no'"),
        ({"ig__steps": 0}, "ig.steps: expected a whole number >= 1, got 0"),
        ({"ig__probabilty": 1}, "did you mean"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method("kd+ig", **settings)
