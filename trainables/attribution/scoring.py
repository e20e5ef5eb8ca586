"""What is said of a network's maps: localisation and preservation, over pairs of image and class.

Means are over all pairs, and with ``_predicted`` over those alone whose class the network itself
says is there, as Park et al., "Attribution Preservation in Network Compression for Reliable Network
Interpretation", NeurIPS 2020, arXiv 2010.15054, section 4, take them. The latter are over other
pairs for every network: one that says little has few.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.attribution.localisation import localise, miou, pairs_of
from trainables.attribution.preservation import HEADLINE, MEASURES, compare, corrected, others
from trainables.attribution.ranks import empty

Said = dict[str, Any]
"""As JSON takes it; None stands for a mean of nothing."""


class Pairs(NamedTuple):
    """Images and the classes that they are explained for, ``[P]`` each, sorted by both.

    Attributes:
        images: positions among the images, int64.
        classes: int64.
        compared: bool, whether a student's map is compared with its teacher's.
        located: bool, whether the map is scored against the image's mask.
        masks: uint8 ``[M, H, W]`` of all images; None where they have none.
    """

    images: Tensor
    classes: Tensor
    compared: Tensor
    located: Tensor
    masks: Tensor | None


def pairs_for(said: Tensor, masks: Tensor | None) -> Pairs:
    """The pairs of some images.

    Args:
        said: for which classes an image's maps are compared, bool ``[M, classes]``.
        masks: uint8 ``[M, H, W]``, or None.
    """
    located = torch.zeros_like(said)
    if masks is not None:
        located[pairs_of(masks)] = True
    images, classes = (said | located).nonzero(as_tuple=True)
    return Pairs(images, classes, said[images, classes], located[images, classes], masks)


def scores_of(
    maps: Tensor,
    pairs: Pairs,
    predicted: Tensor,
    teachers: Tensor | None = None,
    untrained: Mapping[str, float] | None = None,
) -> Said:
    """All that is said of the maps of a network by one explainer.

    Args:
        maps: of all pairs, ``[P, H, W]`` float32.
        pairs: what they are of.
        predicted: bool ``[P]``, whether the network says that the class is there.
        teachers: the teacher's maps of the same pairs, or None.
        untrained: means by measure that an untrained network has, as `means_of` gives them.
    """
    found: Said = {"maps": len(maps), "empty_maps": int(empty(maps).sum())}
    if pairs.located.any():
        assert pairs.masks is not None
        found["localisation"] = _localisation(maps, pairs, predicted)
    if teachers is not None and pairs.compared.any():
        found["preservation"] = _preservation(maps, pairs, predicted, teachers, untrained or {})
    return found


def means_of(maps: Tensor, teachers: Tensor, pairs: Pairs) -> dict[str, float]:
    """The means of every measure between two networks' maps of the pairs that are compared."""
    found = compare(teachers[pairs.compared], maps[pairs.compared])
    return {name: values.mean().item() for name, values in found.items()}


def _localisation(maps: Tensor, pairs: Pairs, predicted: Tensor) -> Said:
    assert pairs.masks is not None
    some = pairs.located
    found = localise(maps[some], pairs.masks[pairs.images[some]], pairs.classes[some])
    said: Said = {"pairs": int(some.sum()), "pairs_predicted": int((some & predicted).sum())}
    for name, values in (("auc", found.auc), ("pointing", found.pointing), ("iou", found.iou)):
        said |= _two_means(name, values, predicted[some])
    said["miou"] = _number(miou(found, pairs.classes[some]))
    return said


def _preservation(
    maps: Tensor, pairs: Pairs, predicted: Tensor, teachers: Tensor, untrained: Mapping[str, float]
) -> Said:
    some = pairs.compared
    ours, theirs, said = maps[some], teachers[some], predicted[some]
    here, there = others(pairs.classes[some])
    own, foreign = compare(theirs, ours), compare(theirs[there], ours[here])
    found: Said = {
        "pairs": int(some.sum()),
        "pairs_predicted": int(said.sum()),
        "empty_maps": int(empty(ours).sum()),
        "teacher_empty_maps": int(empty(theirs).sum()),
    }
    for name in MEASURES:
        chances = _number(foreign[name].mean().item()), untrained.get(name)
        found[name] = {
            **_two_means("mean", own[name], said),
            "other_image": chances[0],
            "untrained": chances[1],
            "preserved": corrected(own[name][here].mean().item(), *chances),
        }
    return found


def _two_means(name: str, values: Tensor, predicted: Tensor) -> Said:
    some = {name: values, f"{name}_predicted": values[predicted]}
    return {key: _number(one.nanmean().item()) for key, one in some.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def headlines(said: Mapping[str, Said]) -> dict[str, float | int | None]:
    """The numbers of a row: means over the explainers, empty maps of all of them.

    Args:
        said: by explainer, as `scores_of` gives it. Where one has an ``error`` in its place, there
            are none: a mean over others would be another number.
    """
    names = {"localisation": "auc", "pointing": "pointing", "miou": "miou"}
    parts = [one.get("localisation", {}) for one in said.values()]
    found = {column: _mean([part.get(key) for part in parts]) for column, key in names.items()}
    kept = [one.get("preservation", {}).get(HEADLINE, {}) for one in said.values()]
    found["preservation"] = _mean([one.get("preserved") for one in kept])
    counts = [one["empty_maps"] for one in said.values() if "empty_maps" in one]
    return {**found, "empty_maps": sum(counts) if len(counts) == len(said) else None}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
