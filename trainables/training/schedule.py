"""The learning rate as a pure function of how far the training is."""

import math

from trainables.config import TrialConfig


def learning_rate(config: TrialConfig, epoch: float) -> float:
    """The learning rate after ``epoch`` epochs (a fraction within one), warm-up included.

    ``cosine`` falls from ``lr`` to 0 over the epochs after the warm-up (Loshchilov & Hutter,
    ICLR 2017, without restarts); ``step`` multiplies by ``lr_decay`` at every milestone.
    """
    if epoch < config.warmup_epochs:
        return config.lr * (epoch + 1 / 128) / (config.warmup_epochs + 1 / 128)
    if config.schedule == "cosine":
        span = max(config.epochs - config.warmup_epochs, 1e-9)
        return 0.5 * config.lr * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / span))
    if config.schedule == "step":
        passed = sum(epoch >= milestone for milestone in config.milestone_epochs())
        return config.lr * config.lr_decay**passed
    return config.lr
