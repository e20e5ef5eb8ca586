"""What two small networks may say: drawn in float64, and as outputs with rectified features."""

import numpy as np
import torch

from trainables.methods.term import Batch
from trainables.models.outputs import Outputs, Shapes

Array = np.ndarray
SHAPES = Shapes(10, 6, ((3, 8, 8), (4, 4, 4), (6, 2, 2)), pooled=True)
WIDER = Shapes(10, 8, ((5, 8, 8), (7, 4, 4), (8, 2, 2)), pooled=True)


def draw(*shape: int, seed: int = 0) -> Array:
    """Normal numbers: float64 of this shape, others for every seed and shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensor(values: Array) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def outputs(shapes: Shapes, seed: int, batch: int = 4) -> Outputs:
    """Rectified features, the embedding being the last stage's channel means."""
    stages = tuple(tensor(draw(batch, *shape, seed=seed)).relu() for shape in shapes.stages)
    logits = tensor(draw(batch, shapes.classes, seed=seed))
    return Outputs(logits, stages[-1].mean(dim=(2, 3)), stages)


def batch(epoch: float = 30.0, progress: float = 0.5) -> Batch:
    """Of four images."""
    return Batch(torch.arange(4), torch.arange(4), epoch, progress)
