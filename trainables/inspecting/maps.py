"""What a network makes of images: its feature maps, and the kernels that see them first."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.inspecting.layers import layers_of
from trainables.models.outputs import Network
from trainables.models.shapes import evaluating
from trainables.models.weights import Card

MOST_IMAGES = 6


@dataclass(frozen=True, kw_only=True)
class FeatureMaps:
    """What the stages of a network say to a few images.

    Attributes:
        images: uint8 ``[n, C, H, W]``.
        classes: name of the class of each.
        said: name of the class that the network gives each.
        stages: mean over channels of every stage, float32 ``[n, H, W]``, early to deep.
        shapes: ``(C, H, W)`` of every stage.
    """

    images: Tensor
    classes: tuple[str, ...]
    said: tuple[str, ...]
    stages: tuple[Tensor, ...]
    shapes: tuple[tuple[int, int, int], ...]


@torch.no_grad()
def feature_maps(card: Card, network: Network, dataset: Dataset) -> FeatureMaps:
    """Of the first training image of each of the first classes, at most `MOST_IMAGES`.

    Raises:
        UserError: the network has no feature maps.
    """
    labels = dataset.train.labels
    chosen: list[int] = []
    names: list[str] = []
    for number, name in enumerate(dataset.classes):
        of_class = labels == number if labels.ndim == 1 else labels[:, number] == 1
        places = of_class.nonzero().flatten().tolist()
        place = next((one for one in places if one not in chosen), None)
        if place is not None:
            chosen.append(place)
            names.append(name)
        if len(chosen) == MOST_IMAGES:
            break
    images = dataset.train.images[chosen]
    with evaluating(network):
        outputs = network(to_float(images, card.mean, card.std))
    if not outputs.stages:
        raise UserError(f"network '{card.blueprint.label}' has no feature maps")
    own = card.class_names or dataset.classes
    return FeatureMaps(
        images=images,
        classes=tuple(names),
        said=tuple(own[best] for best in outputs.logits.argmax(1).tolist()),
        stages=tuple(stage.float().mean(1) for stage in outputs.stages),
        shapes=tuple((s.shape[1], s.shape[2], s.shape[3]) for s in outputs.stages),
    )


def first_kernels(network: Network) -> tuple[str, Tensor]:
    """Name and weight of the first convolution, float32 ``[out, in, height, width]``.

    Raises:
        UserError: there is none.
    """
    for name, module in layers_of(network).items():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 4:
            scale = getattr(module, "weight_scale", None)  # of integers
            values = weight.detach().float()
            if isinstance(scale, Tensor) and not isinstance(module, nn.Conv2d):
                values = values * scale.detach().view(-1, 1, 1, 1)
            return name, values
    raise UserError("the network has no convolution, and so no kernels to draw")
