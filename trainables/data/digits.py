"""The 8x8 handwritten digits that come with scikit-learn: needs no download and no folder.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998: 1,797
grey images of 8x8 pixels with 17 levels.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from trainables.data.cache import content_of
from trainables.data.dataset import Content, Dataset, Images
from trainables.data.decode import Allocate
from trainables.data.split import stratified_split

_TEST_FRACTION = 0.2
# Part of the data set's definition: another seed would be another test set.
_TEST_SEED = 20_260_101
_LEVELS = 16
_FILE = Path("datasets", "data", "digits.csv.gz")


def load_digits() -> Dataset:
    """All digits; a stratified fifth, the same for ever, is the test set."""
    return content_of("digits", _files(), None, _decode).dataset(
        "digits", crop_padding=1, flip=False
    )


def _files() -> Sequence[Path]:
    """What scikit-learn reads. To import it takes longer than what is made of it."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return [Path(package.origin).parent / _FILE]


def _decode(allocate: Allocate) -> Content:
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    pixels = np.floor(bunch.images * 255 / _LEVELS + 0.5).astype(np.uint8)[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    splits = stratified_split(labels, _TEST_FRACTION, _TEST_SEED)
    places = allocate([(len(split), *pixels.shape[1:]) for split in splits])
    for place, split in zip(places, splits, strict=True):
        place[:] = pixels[split]
    train, test = (
        Images(torch.from_numpy(place), labels[split])
        for place, split in zip(places, splits, strict=True)
    )
    return Content.measure(tuple(str(name) for name in bunch.target_names), train, test)
