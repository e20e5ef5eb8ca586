"""LS: logit standardisation (Sun et al., CVPR 2024, arXiv 2403.01427).

A modifier of every term that puts logits through a softmax, for example ``kd+ls``: it reads
z-scores in place of logits, of the student and of the teacher,

    Z(z) = (z − mean_c z) / σ(z),   σ² = mean_c (z − mean_c z)²

so that the student matches the relations between the teacher's logits, not their range. The
term's temperature is then the paper's base temperature: set it to 2 (``kd.temperature``), where
the released code starts. The cross-entropy keeps the logits as they are.

z-scores have a small range, so the released code weighs KD ten times as much as without them: 9
beside 0.1 of the cross-entropy, which is kd.alpha = 0.9 times ``weight`` = 10. It divides by the
unbiased σ plus 1e-7, which is the paper's σ at a temperature larger by √(C / (C − 1)).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import LogitModifier
from trainables.settings import setting

EPSILON = 1e-7


def standardise(logits: Tensor) -> Tensor:
    """The z-scores of each image's logits.

    Args:
        logits: ``[B, classes]``.

    Returns:
        ``[B, classes]`` float32, with mean 0 and standard deviation 1 per row; 0 where all
        logits of an image are equal.
    """
    return F.layer_norm(logits.float(), logits.shape[1:], eps=EPSILON)


@dataclass(frozen=True, kw_only=True, slots=True)
class LSConfig:
    """Weight of the terms that `LS` modifies."""

    weight: float = setting(
        10.0,
        "multiplies the terms that read the z-scores",
        at_least=0,
        search=(1, 20),
        log=True,
        weight=True,
    )


class LS(LogitModifier):
    """z-scores for all terms with a softmax."""

    Config = LSConfig

    @property
    def factor(self) -> float:
        return float(self.config.weight)

    def forward(self, logits: Tensor) -> Tensor:
        return standardise(logits)
