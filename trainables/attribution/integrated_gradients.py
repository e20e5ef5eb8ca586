"""Integrated gradients: what each input value adds on the way from a baseline to the image.

Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv 1703.01365,
section 3. Of a logit y^c, an image x and a baseline x' that says nothing,

    IG_i(x) = (x_i - x'_i) · ∫_0^1 ∂y^c(x' + α (x - x')) / ∂x_i dα

    Σ_i IG_i(x) = y^c(x) - y^c(x')        (completeness, proposition 1)

The integral is a sum over ``steps`` points α: those of Gauss and Legendre, as in captum, or the
middles of equal parts. How far the sum misses completeness is told (`completeness_errors`).

Here the points of many images are one batch, sized for the device; BatchNorm is folded into
convolutions (`trainables.attribution.folding`), and nothing waits for the device. captum makes one
batch of all points of the images that it is given, or loops over parts of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.attribution.explainer import Explainer
from trainables.attribution.folding import folded
from trainables.attribution.map_settings import BASELINES, QUADRATURES, STEPS
from trainables.data.views import Normalisation
from trainables.errors import UserError
from trainables.models.outputs import Network
from trainables.settings import setting

Channels = Sequence[float]

FLOOR = 0.1
"""Of a logit: a smaller difference counts as this where an error is a share of it."""

ROW_PIXELS = {"cpu": 1 << 17, "cuda": 1 << 21}
"""Pixels of one batch of points: 128, or 2,048 points of 32x32."""


def quadrature(name: str, steps: int) -> tuple[Tensor, Tensor]:
    """Points in (0, 1) and their weights, which sum to 1: float64 ``[steps]`` each.

    Args:
        name: one of `QUADRATURES`.
        steps: how many.
    """
    if name == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        points, weights = (points + 1) / 2, weights / 2
    else:
        points, weights = (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    return torch.from_numpy(points), torch.from_numpy(weights)


def baseline_image(name: str, mean: Channels, std: Channels) -> Tensor:
    """A baseline in normalised images: ``[C, 1, 1]`` float32.

    Args:
        name: one of `BASELINES`.
        mean, std: of the normalisation, per channel, of pixels in [0, 1].
    """
    shift, scale = torch.tensor(mean), torch.tensor(std)
    pixels = {"mean": shift, "black": torch.zeros_like(shift), "white": torch.ones_like(shift)}
    return ((pixels[name] - shift) / scale).view(-1, 1, 1)


def rows_at_once(images: Tensor) -> int:
    """How many points are one batch, for images ``[..., H, W]``; at least 1."""
    height, width = images.shape[-2:]
    return max(1, ROW_PIXELS.get(images.device.type, ROW_PIXELS["cpu"]) // (height * width))


def integrate(
    network: Network,
    images: Tensor,
    baseline: Tensor,
    shares: Tensor,
    points: tuple[Tensor, Tensor],
    rows: int | None = None,
) -> Tensor:
    """Integrated gradients of Σ_c shares_c · y^c.

    Args:
        network: in evaluation mode, so that no image's logits depend on another's.
        images: normalised, ``[B, C, H, W]``, of the weights' dtype.
        baseline: what expands to ``[C, H, W]``.
        shares: ``[B, classes]``: 1 for the class that is explained and 0 for others, or any.
        points: as `quadrature` gives them.
        rows: points of one batch; None: `rows_at_once`.

    Returns:
        ``[B, C, H, W]`` without gradients.
    """
    rows = rows or rows_at_once(images)
    alphas, weights = (part.to(images) for part in points)
    way = images - baseline
    total = torch.zeros_like(images, memory_format=torch.contiguous_format)
    together = max(1, rows // len(alphas))
    for start in range(0, len(images), together):
        there = slice(start, start + together)
        steps, wanted = way[there].unsqueeze(1), shares[there]
        for some, counts in zip(alphas.split(rows), weights.split(rows), strict=True):
            on_the_way = (baseline + some.view(-1, 1, 1, 1) * steps).flatten(0, 1)
            slopes = _slopes(network, on_the_way, wanted.repeat_interleave(len(some), 0))
            slopes = slopes.reshape(len(steps), len(some), *images.shape[1:])
            total[there] += torch.einsum("bschw,s->bchw", slopes, counts)
    return total * way


def _slopes(network: Network, images: Tensor, shares: Tensor) -> Tensor:
    with torch.enable_grad():
        images = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        chosen = (network(images).logits.float() * shares).sum()
        (found,) = torch.autograd.grad(chosen, images)
    return found


def completeness_errors(sums: Tensor, differences: Tensor) -> Tensor:
    """How far attributions miss what they should sum to, as a share of it.

    |Σ_i IG_i(x) - (y(x) - y(x'))| / max(|y(x) - y(x')|, `FLOOR`). The floor keeps an image about
    which nothing was said from deciding a mean.

    Args:
        sums: of all attributions of an image, ``[B]``.
        differences: y(x) - y(x'), ``[B]``.
    """
    return (sums - differences).abs() / differences.abs().clamp_min(FLOOR)


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegratedGradientsConfig:
    """Settings of `IntegratedGradients`.

    Attributes:
        steps: points of the integral.
        baseline: x'. Black and white are known where the normalisation of the images is.
        quadrature: where the points are.
    """

    steps: int = setting(STEPS, "gradients on the way from the baseline", at_least=1)
    baseline: str = setting("mean", "the image that says nothing", choices=BASELINES)
    quadrature: str = setting("gausslegendre", "where gradients are taken", choices=QUADRATURES)


class IntegratedGradients(Explainer):
    """Integrated gradients of the class's logit, with their sign.

    Raises:
        UserError: a baseline that needs the normalisation, which nobody knows.
    """

    signed = True
    completeness = "f(x) - f(baseline)"
    tolerance = 0.02
    Config: ClassVar[type] = IntegratedGradientsConfig

    def __init__(
        self,
        config: IntegratedGradientsConfig,
        network: Network,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__(config, network, normalisation)
        if normalisation is None and config.baseline != "mean":
            raise UserError(
                f"integrated_gradients.baseline: expected mean, got {config.baseline!r}: what "
                f"{config.baseline} is in normalised images is not known here"
            )
        self._points = quadrature(config.quadrature, config.steps)
        self._folded: Network | None = None

    @classmethod
    def passes(cls, config: IntegratedGradientsConfig) -> int:
        return config.steps

    def check(self, images: Tensor) -> None:
        """Refuses a network whose logits have no gradients.

        Args:
            images: some, ``[B, C, H, W]``.

        Raises:
            UserError: it is one.
        """
        with torch.enable_grad():
            logits = self.network(images.detach().clone().requires_grad_()).logits
        if not logits.requires_grad:
            raise UserError(
                "integrated_gradients: the logits of this network have no gradient to its images"
            )

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        if self._folded is None:
            self._folded = folded(self.network, images[:1])
        shares = F.one_hot(targets, self.network.classifier.out_features).float()
        return integrate(self._folded, images, self._baseline(images), shares, self._points)

    @torch.no_grad()
    def expected_sum(self, images: Tensor, targets: Tensor) -> Tensor:
        """``f(x) - f(baseline)``, ``[B]`` float32."""
        silent = self._baseline(images).expand(1, *images.shape[1:]).contiguous()
        said = self.network(images).logits - self.network(silent).logits
        return said.gather(1, targets.unsqueeze(1))[:, 0].float()

    def _baseline(self, images: Tensor) -> Tensor:
        channels = images.shape[1]
        mean, std = self.normalisation or ((0.0,) * channels, (1.0,) * channels)
        return baseline_image(self.config.baseline, mean, std).to(images.device)
