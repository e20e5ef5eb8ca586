"""A teacher's attribution maps of a whole training set, kept beside its tables."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class StoredMaps(NamedTuple):
    """Maps of all training images, on the device where they are read.

    Attributes:
        values: ``[N, H, W]``, at least 0, of the images as they are (without crop or flip), by
            the image's position in the training set; each divided by its largest value.
        facts: what they are, for the row: explainer, target, baseline, steps, mean completeness
            error.
    """

    values: Tensor
    facts: Mapping[str, Any]

    def of(self, there: Tensor) -> Tensor:
        """The maps of images: ``[B, 1, H, W]``.

        Args:
            there: positions in the training set, int64 ``[B]``, on the maps' device.
        """
        return self.values.index_select(0, there).unsqueeze(1)
