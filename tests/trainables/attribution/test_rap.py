"""RAP keeps its parts balanced, by every single contribution and over the zoo."""

import pytest
import torch
from explicit import boxed, explained, layers_of, parts, shared
from lively import images, made

from trainables.attribution import rules
from trainables.attribution.rap import RAP, RAPConfig, absolute_influence, relative_influence
from trainables.attribution.steps import Linear

TARGETS = torch.tensor([3, 0])


def explicit_rap(dense):
    """The formulas of the module's docstring."""

    def message(number, x, values, weight, bias, relevance):
        z = values * weight
        if number == 0:
            return boxed(x, values, weight, relevance)
        if number == dense:
            return shared(z.abs(), relevance)
        up, down = parts(z)
        p, n = up.sum(2, keepdim=True), -down.sum(2, keepdim=True)
        r = torch.where(p + n == 0, 0.0, n / (p + n))
        above, below = parts(relevance)
        c = shared(up, above) + shared(down, r * above + (1 + r) * below)
        # All that an input has is added up before the shift: it is spread over its messages here.
        whole = torch.nn.functional.fold(c.sum(1), x.shape[2:], 3, padding=1)
        active = (whole != 0).double()
        excess = whole.flatten(1).sum(1) - relevance.flatten(1).sum(1)
        shift = (excess / active.flatten(1).sum(1)).view(-1, 1, 1, 1) * active
        times = (
            torch.nn.functional.fold(torch.ones_like(c.sum(1)), x.shape[2:], 3, padding=1)
            * c.shape[1]
        )
        patches = torch.nn.functional.unfold(shift / times, 3, padding=1).unsqueeze(1)
        return c - patches

    return message


def test_every_contribution():
    network = made("vgg11_x0.125").eval()
    message = explicit_rap(len(layers_of(network)) - 1)
    expected = explained(network, images(2), TARGETS, message, lambda logit: logit)
    found = RAP(RAPConfig(), network).attribute(images(2), TARGETS)
    scale = expected.abs().max()
    # With values of float32 it is twice as much here, and a thousand times in other networks.
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=0, atol=6e-7)


@pytest.mark.parametrize("name", ["resnet8_zeropad", "resnet8-eca", "wrn_10_1", "vgg11_x0.125"])
def test_balanced_at_every_layer(name):
    """Positive and negative relevance add up to the same as behind the layer; both are there."""
    seen = []

    def watch(step, relevance, passed):
        found = sum(rules.per_image(part) for part in passed.parts)
        size = rules.per_image(relevance.abs()) + 1e-9
        seen.append(((found - rules.per_image(relevance)).abs() / size).max().item())

    found = RAP(RAPConfig(), made(name).eval()).relevance(images(2), TARGETS, watch)
    assert max(seen) < 1e-4
    assert (found.absorbed == 0).all()
    torch.testing.assert_close(rules.per_image(found.values), found.start, rtol=1e-3, atol=1e-3)
    assert (found.values > 0).any()
    assert (found.values < 0).any()


def test_by_hand():
    """z⁺ = 3, z⁻ = -2, relevance 4: r = 0.4, C = (4, 1.6), and 0.8 less for each."""
    one = Linear(
        name="one",
        sources=(1,),
        apply=torch.nn.functional.linear,
        weight=torch.tensor([[3.0, -1.0, 5.0]]),
    )
    x = torch.tensor([[1.0, 2.0, 0.0]])
    for relevance, expected in [(4.0, [3.2, 0.8, 0.0]), (-4.0, [0.0, -4.0, 0.0])]:
        signs = [rules.contributions(one, x, positive) for positive in (True, False)]
        found = relative_influence(*signs, torch.tensor([[relevance]])).parts[0]
        torch.testing.assert_close(found, torch.tensor([expected]))
    signs = [rules.contributions(one, x, positive) for positive in (True, False)]
    found = absolute_influence(*signs, torch.tensor([[4.0]])).parts[0]
    torch.testing.assert_close(found, torch.tensor([[2.4, 1.6, 0.0]]))


def test_the_positive_part_of_positions():
    network = made("resnet8").eval()
    signed = RAP(RAPConfig(part="signed"), network)
    positive = RAP(RAPConfig(), network)
    assert signed.signed
    assert not positive.signed
    found, whole = positive.maps(images(2), TARGETS), signed.maps(images(2), TARGETS)
    assert (whole < 0).any()
    assert torch.equal(found, whole.clamp(min=0))
