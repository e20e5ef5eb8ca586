"""The usual input normalisations by name, and those that a network may have been trained with."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.data.dataset import Dataset
from trainables.errors import UserError, unknown

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

NORMALISATIONS: dict[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
    "bytes": ((0.0,), (1 / 255,)),
}
"""Usual input normalisations by name; one number stands for every channel. ``bytes`` are pixels
from 0 to 255. Those of the data set itself are ``dataset`` and ``per-image``, whose deviation is
the mean of the images' own, as in (0.2023, 0.1994, 0.2010) for CIFAR-10."""

_DEVIATION_BYTES = 40_000_000
_SAME = 0.01


def known(dataset: Dataset) -> dict[str, Statistics]:
    """The normalisations that fit a data set's channels, by name."""
    channels = dataset.image_shape[0]
    usual = {
        name: (mean * channels, std * channels) if len(mean) == 1 else (mean, std)
        for name, (mean, std) in NORMALISATIONS.items()
    }
    own = {
        "dataset": (dataset.mean, dataset.std),
        "per-image": (dataset.mean, _mean_deviation(dataset.train.images)),
    }
    return own | {n: found for n, found in usual.items() if len(found[0]) == channels}


def candidates_of(
    dataset: Dataset, told: Statistics | None, published: Statistics | None
) -> dict[str, Statistics]:
    """What an imported network may have been trained with, each once.

    Args:
        dataset: on whose images it is tried.
        told: what its file says: ``file``.
        published: what the library says of a network of this name: ``published``.
    """
    channels = dataset.image_shape[0]
    tried: dict[str, Statistics] = {}
    for name, found in {"file": told, **known(dataset), "published": published}.items():
        fits = found is not None and len(found[0]) == len(found[1]) == channels
        if found is not None and fits and not any(_same(found, other) for other in tried.values()):
            tried[name] = found
    return tried


def _same(one: Statistics, other: Statistics) -> bool:
    """Whether the difference is too small to be seen in what a network says."""
    pairs = zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True)
    return all(math.isclose(a, b, rel_tol=_SAME, abs_tol=1e-4) for a, b in pairs)


def named(text: str, dataset: Dataset, others: Mapping[str, Statistics]) -> tuple[str, Statistics]:
    """A normalisation as the user gives it: a name, or ``MEAN,../STD,..``.

    Args:
        text: what was given.
        dataset: to whose images it is applied.
        others: further ones by name.

    Raises:
        UserError: it is neither, or does not fit the images.
    """
    names = {**known(dataset), **others}
    if text in names:
        return text, names[text]
    channels = dataset.image_shape[0]
    try:
        mean, std = (tuple(float(part) for part in half.split(",")) for half in text.split("/", 1))
    except ValueError:
        raise unknown("normalisation", text, ["auto", *names, "MEAN,../STD,.."]) from None
    finite = all(math.isfinite(value) for value in (*mean, *std))
    if len(mean) != channels or len(std) != channels or min(std) <= 0 or not finite:
        raise UserError(f"normalisation: expected {channels} means and {channels} deviations > 0")
    return "given", (mean, std)


def _mean_deviation(images: Tensor) -> tuple[float, ...]:
    """The mean of the images' own standard deviations, per channel, of images in [0, 1].

    Of a large set some images, evenly spread, are enough.
    """
    some = images[:: max(1, images.nbytes // _DEVIATION_BYTES)]
    sums = torch.zeros(images.shape[1], dtype=torch.float64)
    for part in some.split(256):
        values = part.flatten(2).float().div_(255)
        centred = values - values.mean(2, keepdim=True)  # quicker than `std` of several axes
        sums += centred.square_().mean(2).sqrt_().sum(0)
    deviation = sums / len(some)
    return tuple(torch.where(deviation > 0, deviation, 1.0).tolist())
