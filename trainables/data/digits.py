"""The 8x8 handwritten digits that come with scikit-learn: needs no download and no folder.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998: 1,797
grey images of 8x8 pixels with 17 levels.
"""

import numpy as np
import torch

from trainables.data.dataset import Content, Dataset, Images
from trainables.data.split import stratified_split

_TEST_FRACTION = 0.2
# Part of the data set's definition: another seed would be another test set.
_TEST_SEED = 20_260_101
_LEVELS = 16


def load_digits() -> Dataset:
    """All digits; a stratified fifth, the same for ever, is the test set."""
    # Half a second that only this data set should cost.
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    pixels = np.floor(bunch.images * 255 / _LEVELS + 0.5).astype(np.uint8)
    images = torch.from_numpy(pixels).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = stratified_split(labels, _TEST_FRACTION, _TEST_SEED)
    classes = tuple(str(name) for name in bunch.target_names)
    content = Content.measure(
        classes, Images(images[train], labels[train]), Images(images[test], labels[test])
    )
    return content.dataset("digits", crop_padding=1, flip=False)
