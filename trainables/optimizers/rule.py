"""The interface of an update rule that has settings of its own."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from trainables.config import TrialConfig


class Weight(NamedTuple):
    """A parameter to train, and what it is in its network.

    Attributes:
        name: in the network; of the method's adaptors behind ``method.``.
        parameter: itself.
        blocks: of the kernel of a hidden convolution or linear layer, its groups: it is so many
            matrices ``[out / blocks, in * kh * kw]`` one above the other. 0 for all else: biases,
            gains, vectors, the network's first layer and its classifier, adaptors.
    """

    name: str
    parameter: nn.Parameter
    blocks: int = 0


class Rule:
    """An update rule.

    Args:
        config: an instance of `Config`.

    Attributes:
        Config: a frozen dataclass of `trainables.settings.setting` fields; users write them as
            ``optimizer.KEY``. What two rules call the same, of one type.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    def build(
        self, trial: TrialConfig, weights: Sequence[Weight], device: torch.device
    ) -> torch.optim.Optimizer:
        """The optimizer of a trial's weights.

        What it promises is said of `trainables.optimizers.registry.OPTIMIZERS`. A group may have
        a ``lr_ratio``, and a ``rule``: the name under which a row lists its weights.

        Args:
            trial: has ``lr`` and ``weight_decay``.
            weights: of a network, and of the adaptors that are trained with it.
            device: where they are.
        """
        raise NotImplementedError
