"""The interface of an explainer: what in an image speaks for a class."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from trainables.data.views import Normalisation
from trainables.models.outputs import Network


class Explainer(ABC):
    """Attributes the logit of a class to the positions of an image.

    A subclass stands in its own file, with its Config beside it: a frozen dataclass of
    `trainables.settings.setting` fields. What it says of an image does not depend on the other
    images of the batch, nor on what random numbers were drawn before. `explain` calls it, with the
    network in evaluation mode, weights that have no gradients, gradients on and autocast off.

    Args:
        config: its settings.
        network: as it is; an explainer that must change a network changes a copy of its own, and
            hooks of its own are gone when a method returns or raises.
        normalisation: of the images that it will get; None where nobody knows it. A subclass with
            an ``__init__`` of its own takes it too.

    Attributes:
        signed: whether positions of a map may also speak against the class: values below 0.
        completeness: what `attribute` sums to over an image, as a formula: ``f(x) - f(0)``; None
            where nothing is promised. `expected_sum` computes it.
        tolerance: how far the sum may be from that, as a share of the largest expected sum of some
            images, or of 1 where that is larger.
        Config: its config class.

    Raises:
        UserError: a network that it cannot explain, by name.
    """

    signed: bool = False
    completeness: str | None = None
    tolerance: float = 0.01
    Config: ClassVar[type]

    def __init__(
        self, config: Any, network: Network, normalisation: Normalisation | None = None
    ) -> None:
        self.config, self.network, self.normalisation = config, network, normalisation

    def check(self, images: Tensor) -> None:  # noqa: B027 (most have nothing to look at)
        """Looks at what only an image can tell of the network, before anything is explained.

        Args:
            images: one of those to explain, or one of their shape, ``[1, C, H, W]``.

        Raises:
            UserError: it cannot explain this network, by name.
        """

    @classmethod
    def passes(cls, config: Any) -> int:
        """How often an image goes through the network for one map, there and back or there alone.

        Of an explainer that goes through it by rules of its own: once.

        Args:
            config: its settings.
        """
        return 1

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

    def expected_sum(self, images: Tensor, targets: Tensor) -> Tensor:
        """What `attribute` sums to by `completeness`: ``[B]`` float32.

        Args:
            images, targets: as for `attribute`.
        """
        raise NotImplementedError(f"{type(self).__name__} promises no sum")

    def by_position(self, attributed: Tensor) -> Tensor:
        """One value for each position: the sum over channels.

        Args:
            attributed: as `attribute` gives it, ``[B, c, h, w]``.

        Returns:
            ``[B, h, w]``.
        """
        return attributed.sum(1)

    def maps(self, images: Tensor, targets: Tensor) -> Tensor:
        """What is attributed to each position of the images.

        Args:
            images, targets: as for `attribute`.

        Returns:
            ``[B, H, W]`` float32: `by_position`, brought to the images' size (bilinear, corners
            not aligned) where a layer's positions are fewer.
        """
        found = self.by_position(self.attribute(images, targets)).unsqueeze(1)
        if found.shape[-2:] != images.shape[-2:]:
            found = nn.functional.interpolate(
                found, images.shape[-2:], mode="bilinear", align_corners=False
            )
        return found[:, 0]
