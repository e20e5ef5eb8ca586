"""Which images of a data set a trial trains on, and which it holds out."""

import hashlib
from dataclasses import replace

from torch import Tensor

from trainables.attribution.map_settings import FEW
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset, Images
from trainables.errors import UserError
from trainables.tasks.registry import TASKS


def split_images(config: TrialConfig, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Positions of the training images that a trial trains on, and of those that it holds out.

    Returns:
        Two of int64, ``[M]`` and ``[V]``, on the CPU.

    Raises:
        UserError: the split leaves nothing to train on.
    """
    task, labels, seed = TASKS[dataset.task], dataset.train.labels, config.split_seed
    indices, held_out = task.split(labels, config.val_fraction, seed)
    seed = config.seed if config.resample else seed
    trained = task.subset(labels, indices, config.train_fraction, seed)
    if not len(trained):
        raise UserError(
            f"val_fraction: {config.val_fraction:g} of {len(dataset.train)} training images "
            "leaves none to train on; expected less, or more images"
        )
    return trained, held_out


def of_few(dataset: Dataset, trained: Tensor) -> Dataset:
    """The data set whose images' attribution maps are stored for trials of some of its images.

    Args:
        dataset: all of it.
        trained: positions of the training images that are trained on, int64 ``[M]``.

    Returns:
        Where these are few (`FEW`), a set by itself, in the order of their positions, which all
        trials of the same images share; else the data set itself.
    """
    train = dataset.train
    if len(trained) >= FEW * len(train):
        return dataset
    trained = trained.sort().values
    digest = hashlib.sha256(dataset.fingerprint.encode() + trained.numpy().tobytes())
    images = Images(train.images[trained], train.labels[trained])
    return replace(dataset, train=images, fingerprint=digest.hexdigest())
