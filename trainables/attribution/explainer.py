"""The interface of an explainer: what in an image speaks for a class."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from trainables.models.outputs import Network


class Explainer(ABC):
    """Attributes the logit of a class to the positions of an image.

    A subclass stands in its own file, with its Config beside it: a frozen dataclass of
    `trainables.settings.setting` fields. What it says of an image does not depend on the other
    images of the batch.

    Args:
        config: its settings.
        network: as it is; an explainer that must change a network changes a copy of its own.

    Attributes:
        signed: whether positions may also speak against the class: values below 0.
        Config: its config class.

    Raises:
        UserError: a network that it cannot explain, by name.
    """

    signed: ClassVar[bool] = False
    Config: ClassVar[type]

    def __init__(self, config: Any, network: Network) -> None:
        self.config, self.network = config, network

    @abstractmethod
    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """What is attributed, in the explainer's own terms.

        Args:
            images: normalised, ``[B, C, H, W]`` float32.
            targets: the class that each image is explained for, int64 ``[B]``.

        Returns:
            ``[B, c, h, w]`` float32 without gradients: of every input value (``c = C``), or of the
            positions of a layer (``c = 1``).
        """

    def maps(self, images: Tensor, targets: Tensor) -> Tensor:
        """What is attributed to each position of the images.

        Args:
            images, targets: as for `attribute`.

        Returns:
            ``[B, H, W]`` float32: the sum over channels, brought to the images' size (bilinear,
            corners not aligned) where a layer's positions are fewer.
        """
        found = self.attribute(images, targets).sum(1, keepdim=True)
        if found.shape[-2:] != images.shape[-2:]:
            found = nn.functional.interpolate(found, images.shape[-2:], mode="bilinear")
        return found[:, 0]
