"""Gradients, SmoothGrad and GradientSHAP: by formula where there is one, and against captum."""

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, NoiseTunnel, Saliency
from lively import images, made
from torch import nn

from trainables.attribution.differentiation import images_at_once, samples_at_once
from trainables.attribution.explaining import as_explained, explain
from trainables.attribution.registry import EXPLAINERS, resolve_explainers
from trainables.errors import UserError
from trainables.models.outputs import Network, Outputs

TARGETS = torch.tensor([3, 0, 7])


class Squares(Network):
    """Logits (w · x)^power of one linear layer, whose gradient is known."""

    def __init__(self, power=1):
        super().__init__()
        self.classifier, self.power = nn.Linear(3 * 4 * 5, 10, bias=False), power

    def forward(self, images, depth=None):
        embedding = images.flatten(1)
        return Outputs(self.classifier(embedding) ** self.power, embedding, ())


class Logits(nn.Module):
    """As captum wants a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network.eval()

    def forward(self, pixels):
        return self.network(pixels).logits


def explainer(name, network, **settings):
    config = resolve_explainers(name, {f"{name}.{key}": value for key, value in settings.items()})
    return EXPLAINERS[name](config[name], network)


def attributed(name, network, pixels, targets=TARGETS, **settings):
    with as_explained(network):
        return explainer(name, network, **settings).attribute(pixels, targets)


def cosine(one, other):
    return nn.functional.cosine_similarity(one.flatten(1), other.flatten(1))


def test_gradients_of_squares():
    """∂(w·x)²/∂x = 2 (w·x) w; a map is the largest of the channels' absolute values."""
    network, pixels = Squares(2), torch.randn(3, 3, 4, 5)
    w = network.classifier.weight.detach().double().numpy()[TARGETS.numpy()]
    x = pixels.double().numpy().reshape(3, -1)
    expected = (2 * (w * x).sum(1, keepdims=True) * w).reshape(3, 3, 4, 5)
    found = attributed("gradients", network, pixels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    maps = explain(network, resolve_explainers("gradients", {}), pixels, TARGETS)["gradients"]
    np.testing.assert_allclose(maps.numpy(), abs(expected).max(1), rtol=1e-4, atol=1e-6)


def test_smooth_grad_of_cubes():
    """E ∂(w·(x + σn))³/∂x = 3 ((w·x)² + σ² |w|²) w, σ a share of each image's own range."""
    network, pixels = (
        Squares(3),
        torch.randn(3, 3, 4, 5) * torch.tensor([1.0, 4.0, 0.1])[:, None, None, None],
    )
    w = network.classifier.weight.detach().double()[TARGETS]
    x = pixels.double().flatten(1)
    sigma = 0.2 * (x.amax(1) - x.amin(1))
    scale = (w * x).sum(1) ** 2 + sigma**2 * (w**2).sum(1)
    expected = (3 * scale[:, None] * w).view(3, 3, 4, 5)
    found = attributed("smooth_grad", network, pixels, samples=1500, noise=0.2)
    torch.testing.assert_close(
        found.double() / expected, torch.ones(3, 3, 4, 5).double(), rtol=0, atol=0.1
    )


def test_gradient_shap_of_a_linear_network():
    """w (x - mean of the baselines), whatever the points between."""
    network, pixels = Squares(), torch.randn(3, 3, 4, 5)
    w = network.classifier.weight.detach()[TARGETS].view(3, 3, 4, 5)
    zero = attributed("gradient_shap", network, pixels, baselines="zero", samples=3)
    torch.testing.assert_close(zero, w * pixels)
    many = attributed("gradient_shap", network, pixels, samples=2000)
    torch.testing.assert_close(many, w * pixels, rtol=0, atol=0.1 * float(w.abs().max()))
    few = attributed("gradient_shap", network, pixels, samples=2)
    assert not torch.allclose(few, w * pixels, atol=0.1 * float(w.abs().max()))


def errors_of(network, pixels, **settings):
    """What GradientSHAP's sums miss, and what they should be."""
    with as_explained(network):
        one = explainer("gradient_shap", network, **settings)
        found = one.attribute(pixels, TARGETS).sum((1, 2, 3))
        expected = one.expected_sum(pixels, TARGETS)
    return found - expected, expected


def test_gradient_shap_from_zero_sums_to_the_difference():
    """f(x) - f(0), the nearer the more points there are."""
    network, pixels = made("vgg11_x0.125"), images(3)
    expected = network.eval()(pixels).logits - network(torch.zeros_like(pixels)).logits
    few, sums = errors_of(network, pixels, baselines="zero", samples=5)
    many, _ = errors_of(network, pixels, baselines="zero", samples=100)
    torch.testing.assert_close(sums, expected[range(3), TARGETS].detach())
    assert many.abs().max() < 0.05 * sums.abs().max()
    assert many.abs().mean() < 0.5 * few.abs().mean()


def test_gradient_shap_from_noise_sums_to_the_difference_in_expectation():
    """Over draws of its own, the mean error is zero to four standard errors."""
    network, pixels = made("wrn_10_0.5"), images(3)
    drawn = [errors_of(network, pixels, samples=20, seed=seed) for seed in range(16)]
    errors = torch.stack([error for error, _ in drawn])
    standard = errors.std(0) / 4
    assert (errors.mean(0).abs() < 4 * standard).all()
    assert standard.max() < 0.2 * drawn[0][1].abs().max(), "too few draws to see anything"


def test_gradients_are_captums():
    for name in ("vgg11_x0.125", "resnet8"):
        network = made(name).eval()
        expected = Saliency(Logits(network)).attribute(
            images(3).requires_grad_(), TARGETS, abs=False
        )
        found = attributed("gradients", network, images(3))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_smooth_grad_is_captums_but_for_the_draws():
    """As near to captum's as captum's is to itself, drawn again."""
    network, x = made("vgg11_x0.125").eval(), images(1)
    tunnel = NoiseTunnel(Saliency(Logits(network)))

    def theirs(seed):
        torch.manual_seed(seed)
        sigma = 0.15 * float(x.max() - x.min())
        known = {"nt_type": "smoothgrad", "nt_samples": 200, "nt_samples_batch_size": 100}
        return tunnel.attribute(x, **known, stdevs=sigma, target=TARGETS[:1], abs=False)

    found = attributed("smooth_grad", network, x, TARGETS[:1], samples=200)
    one, two = theirs(0), theirs(1)
    assert cosine(one, two) > 0.3
    assert cosine(found, (one + two) / 2) > cosine(one, two)


def test_gradient_shap_is_captums_but_for_the_draws():
    """As near to captum's as captum's is to itself, drawn again."""
    network, x = made("vgg11_x0.125").eval(), images(1)

    def theirs(seed):
        torch.manual_seed(seed)
        np.random.seed(seed)  # captum draws from both
        found = GradientShap(Logits(network)).attribute(
            x, torch.randn(300, 3, 32, 32), n_samples=300, target=TARGETS[:1]
        )
        return found.float()

    found = attributed("gradient_shap", network, x, TARGETS[:1], samples=300)
    one, two = theirs(0), theirs(1)
    assert cosine(one, two) > 0.3
    assert cosine(found, (one + two) / 2) > cosine(one, two)


def test_draws_are_those_of_the_seed():
    network, pixels = made("vgg11_x0.125"), images(3)
    for name in ("smooth_grad", "gradient_shap"):
        first = attributed(name, network, pixels, samples=3)
        torch.manual_seed(5)
        assert torch.equal(attributed(name, network, pixels, samples=3), first)
        assert not torch.equal(attributed(name, network, pixels, samples=3, seed=1), first)


def test_how_many_are_differentiated_at_once():
    assert images_at_once(torch.empty(1, 8, 8)) == 256
    assert images_at_once(torch.empty(3, 64, 64)) == 64
    assert images_at_once(torch.empty(3, 1000, 1000)) == 1
    assert samples_at_once(torch.empty(60, 3, 64, 64)) == 1
    assert samples_at_once(torch.empty(2, 3, 64, 64)) == 32
    assert samples_at_once(torch.empty(100, 3, 64, 64)) == 1


@pytest.mark.parametrize("name", ["gradients", "smooth_grad", "gradient_shap", "grad_cam"])
def test_a_network_without_gradients_is_refused(name):
    class Rounded(Squares):
        def forward(self, images, depth=None):
            return super().forward(images.detach().round())

    network = Rounded()
    with pytest.raises(UserError, match=f"^{name}.*Rounded") as caught:
        explain(network, resolve_explainers(name, {}), torch.randn(3, 3, 4, 5), TARGETS)
    assert "\n" not in str(caught.value)
