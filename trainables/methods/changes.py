"""How the images of a batch are changed, as an `InputModifier` has drawn it."""

from typing import NamedTuple

from torch import Tensor

from trainables.data.views import Normalisation, normalised


class Mix(NamedTuple):
    """How every image of a batch is mixed with another one.

    Attributes:
        partner: positions in the batch, ``[B]``.
        share: λ, the share of an image itself in [0, 1], a scalar on the device.
    """

    partner: Tensor
    share: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """λ · values + (1 − λ) · values of the partners; ``[B, ...]``."""
        return values[self.partner].lerp(values, self.share.to(values.dtype))


class Overlay(NamedTuple):
    """What is laid over every image of a batch.

    Attributes:
        pixels: in [0, 1], the same for every channel, ``[B, 1, H, W]`` float32.
        share: of the overlay in each image, in [0, 1], ``[B, 1, 1, 1]`` float32; at 0 an image
            stays as it is, to the last bit.
    """

    pixels: Tensor
    share: Tensor

    def __call__(self, images: Tensor, normalisation: Normalisation) -> Tensor:
        """(1 − share) · x + share · pixels, for pixels x of which ``images`` are (x − mean) / std.

        Args:
            images: ``[B, C, H, W]``.
            normalisation: theirs.
        """
        over = normalised(self.pixels, *normalisation).to(images.dtype)
        return images.lerp(over, self.share.to(images.dtype))
