"""Explanations of images by a network, in batches, which leave the network as it was."""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from trainables.attribution.costs import Effort, passes_of
from trainables.attribution.differentiation import images_at_once
from trainables.attribution.explainer import Explainer
from trainables.attribution.registry import EXPLAINERS
from trainables.data.views import Normalisation
from trainables.errors import UserError
from trainables.models.outputs import Network
from trainables.models.shapes import blank_images, evaluating

PASSES = 2048
"""Passes of an explainer at once: after so many it is known how long the others take."""


def explain(
    network: Network,
    explainers: Mapping[str, Any],
    images: Tensor,
    targets: Tensor,
    batch: int | None = None,
    normalisation: Normalisation | None = None,
    effort: Effort | None = None,
) -> dict[str, Tensor]:
    """The maps of images by every explainer.

    The network is explained in evaluation mode and fp32, whatever the autocast and gradient mode
    around, and is afterwards bit for bit what it was, in its mode, whatever happens. Equal calls
    give equal maps, and random numbers that others draw are not touched.

    Args:
        network: with weights.
        explainers: configs by name, as `resolve_explainers` gives them.
        images: normalised, ``[N, C, H, W]``, on the network's device.
        targets: the class for which each image is explained, int64 ``[N]``. Who explains one class
            for all images says so for each: ``torch.full((N,), c)``.
        batch: images at once, at most; None: as `images_at_once` has it. Fewer, where these are
            more than `PASSES`.
        normalisation: mean and deviation of the images, which some baselines need.
        effort: of which these explanations are a part; None: they are all of it.

    Returns:
        By explainer ``[N, H, W]`` float32, without gradients.

    Raises:
        UserError: an explainer that this network cannot have; targets that do not fit.
    """
    _check_targets(network, images, targets)
    count, _, *size = images.shape
    batch = batch or images_at_once(images)
    passes = {name: passes_of({name: config}) for name, config in explainers.items()}
    label = f"explaining {count:,} images by {'+'.join(explainers)}"
    own = effort or Effort(label, count * sum(passes.values()))
    none = torch.zeros(0, *size, device=images.device)
    maps: dict[str, list[Tensor]] = {name: [none] for name in explainers}
    with as_explained(network):
        some = _plain(images[:1])
        made = _made(network, explainers, some, normalisation) if count else {}
        for name, one in made.items():
            at_once = max(1, min(batch, PASSES // passes[name]))
            for start in range(0, count, at_once):
                there = slice(start, start + at_once)
                pixels, classes = _plain(images[there]), targets[there].to(images.device).clone()
                began = time.perf_counter()
                maps[name].append(one.maps(pixels, classes).detach().float())
                if images.device.type == "cuda":
                    torch.cuda.synchronize(images.device)
                own.add(len(pixels) * passes[name], time.perf_counter() - began)
        if effort is None:
            own.close()
        return {name: torch.cat(some) for name, some in maps.items()}


def check_explainers(
    network: Network,
    explainers: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    normalisation: Normalisation | None = None,
) -> None:
    """Whether a network can have these explainers, before anything is trained.

    Args:
        network: with weights, which need not be trained.
        explainers: configs by name.
        image_shape: ``(C, H, W)`` of the images it will see.
        normalisation: as for `explain`.

    Raises:
        UserError: it cannot have one of them, by name.
    """
    with as_explained(network):
        _made(network, explainers, blank_images(network, image_shape), normalisation)


@contextmanager
def as_explained(network: Network) -> Iterator[None]:
    """The state in which explainers meet a network; everything is as it was afterwards.

    Evaluation mode; no weight has a gradient, so that nothing but inputs is differentiated;
    gradients on, autocast and inference mode off; no rounding of float32 (TF32) on a GPU.
    """
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    device = next(itertools.chain(network.parameters(), network.buffers())).device.type
    with (
        evaluating(network),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
        _whole_float32() if device == "cuda" else nullcontext(),
    ):
        try:
            for weight in learned:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in learned:
                weight.requires_grad_(True)


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Without TF32, whose rounding makes a map depend on how many images are explained at once,
    and with convolutions whose sums have one order."""
    backends: Any = torch.backends
    wanted = [
        (backends.cuda.matmul, "allow_tf32", False),
        (backends.cudnn, "allow_tf32", False),
        (backends.cudnn, "deterministic", True),
    ]
    before = [getattr(place, key) for place, key, _ in wanted]
    try:
        for place, key, value in wanted:
            setattr(place, key, value)
        yield
    finally:
        for (place, key, _), value in zip(wanted, before, strict=True):
            setattr(place, key, value)


def _plain(images: Tensor) -> Tensor:
    """Float32 without a history, also of images that were made in inference mode."""
    return images.detach().float().clone()


def _made(
    network: Network,
    explainers: Mapping[str, Any],
    images: Tensor,
    normalisation: Normalisation | None,
) -> dict[str, Explainer]:
    """The explainers, each of which can explain the network."""
    made = {}
    for name, config in explainers.items():
        made[name] = EXPLAINERS[name](config, network, normalisation)
        made[name].check(images)
    return made


def _check_targets(network: Network, images: Tensor, targets: Tensor) -> None:
    if images.ndim != 4:
        raise UserError(f"images: expected [N, C, H, W], got {tuple(images.shape)}")
    if targets.dtype != torch.int64 or targets.shape != images.shape[:1]:
        kind = str(targets.dtype).removeprefix("torch.")
        raise UserError(
            f"targets: expected a class (int64) for each of {len(images)} images, "
            f"got {kind} {list(targets.shape)}"
        )
    classes = network.classifier.out_features
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise UserError(f"targets: expected classes from 0 to {classes - 1}, got {int(wrong[0])}")
