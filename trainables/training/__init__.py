"""How a student is trained: a stream, a learner, and the training that brings them together."""

from trainables.training.training import Training

__all__ = ["Training"]
