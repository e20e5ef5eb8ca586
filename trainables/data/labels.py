"""Labels: one class index of every image, or for every class whether an image is of it."""

import numpy as np
import torch
from torch import Tensor

IGNORED = 255
"""A label of many that counts neither way, such as an object that is hard to make out."""


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """How many images are of each class, int64 ``[classes]``.

    Args:
        labels: int64 ``[N]``, class indices; or uint8 or bool ``[N, classes]`` of 0, 1 and
            `IGNORED`.
        classes: how many there are.
    """
    if labels.ndim == 1:
        return torch.bincount(labels, minlength=classes)
    return (labels == 1).sum(dim=0)


def label_bytes(labels: Tensor) -> bytes:
    """Labels in the order and the width of bytes that digests have, on every platform."""
    return labels.numpy().astype("<i8" if labels.ndim == 1 else np.uint8).tobytes()


def check_labels(labels: Tensor, images: int, classes: int) -> None:
    """Refuses labels of many classes that are of another form than `class_counts` says.

    Raises:
        ValueError: with what was found.
    """
    if labels.ndim == 1:
        return
    found = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
    if labels.dtype not in (torch.uint8, torch.bool) or labels.shape != (images, classes):
        raise ValueError(f"labels: expected uint8 or bool [{images}, {classes}], got {found}")
    if labels.dtype == torch.uint8 and not bool(((labels <= 1) | (labels == IGNORED)).all()):
        raise ValueError(f"labels: expected 0, 1 or {IGNORED}, got {int(labels.max())}")
