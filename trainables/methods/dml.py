"""DML: mutual learning of untrained peers (Zhang et al., CVPR 2018, arXiv 1706.00384).

There is no teacher: K = 1 + ``peers`` networks start from different random weights and learn
from the labels and from each other. Each has an optimiser of its own and the loss

    L_k = CE(z_k, y) + β / (K − 1) · Σ_{l ≠ k} D(l ‖ k)
    D(l ‖ k) = T² · (1/B) Σ_b KL( softmax(z_l,b / T) ‖ softmax(z_k,b / T) )

whose gradient goes to network k only. The paper has β = 1 and T = 1; both settings are ours, and
with T the factor T², as in KD.

In the paper's Algorithm 1 the networks take turns: after an update the network's predictions are
computed anew for the losses of the others (``update: in_turn``, the default; the student comes
first). Most later code takes all losses of a step from the same forward passes (``update:
together``), which saves K − 1 of 2K − 1 of them.

The student is the network that the trial is about. With a second term (``kd+dml``) the teacher
teaches it alone; peers learn from the labels, of which no other term takes a share, and from
the networks beside them. While another term is alone (``fitnet.schedule: two_stage``) they wait.

All networks predict in training mode. BatchNorm's running statistics are updated once a step, as
without peers, by the pass that has gradients; a prediction that is computed anew leaves them as
they are. It draws new dropout masks.

Where every class is a question by itself, D is the mean over images and classes of the Bernoulli
distributions' divergence, as in KD.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.errors import UserError
from trainables.methods.kd import kd_loss
from trainables.methods.term import Batch, Term, cross_entropy
from trainables.models.outputs import Outputs, Shapes
from trainables.models.registry import canonical_name
from trainables.settings import setting


def dml_loss(logits: Tensor, others: Sequence[Tensor], temperature: float) -> Tensor:
    """T² times the Kullback-Leibler divergence from the others, mean over them and the batch.

    Args:
        logits: of network k, ``[B, classes]``.
        others: of each of the others, ``[B, classes]``, no gradient is wanted; at least one.
        temperature: T > 0 divides all logits.

    Returns:
        A scalar in nats times T², float32; at least 0, and 0 where all softmaxes agree.
    """
    return torch.stack([kd_loss(logits, other, temperature) for other in others]).mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class DMLConfig:
    """Peers and weights of `DML`."""

    peers: int = setting(1, "K - 1, networks beside the student", at_least=1, at_most=7)
    peer: str | None = setting(None, "the peers' model; none: the student's")
    beta: float = setting(
        1.0, "weight of the mutual loss", at_least=0, search=(0.1, 10), log=True, weight=True
    )
    temperature: float = setting(1.0, "softens all softmaxes", above=0, search=(1, 5), log=True)
    update: str = setting(
        "in_turn",
        "whether a network's predictions are computed anew after its update",
        choices=("in_turn", "together"),
    )


class DML(Term):
    """Mutual learning of the student and its peers.

    Raises:
        UserError: no such model.
    """

    needs = frozenset()
    any_task = True
    Config = DMLConfig

    def __init__(self, config: DMLConfig, student: Shapes, teacher: Shapes | None) -> None:
        super().__init__(config, student, teacher)  # type: ignore[arg-type]
        if config.peer is not None:
            try:
                canonical_name(config.peer)
            except UserError as error:
                raise UserError(f"dml.peer: {error}") from error
        self.takes_turns = config.update == "in_turn"

    @classmethod
    def peers(cls, config: DMLConfig) -> Mapping[str, str | None]:
        return {str(number): config.peer for number in range(1, config.peers + 1)}

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return self._mutual(student, batch.peers, batch)

    def peer_loss(self, peer: Outputs, others: Mapping[str, Outputs], batch: Batch) -> Tensor:
        return cross_entropy(peer.logits, batch) + self._mutual(peer, others, batch)

    def _mutual(self, own: Outputs, others: Mapping[str, Outputs], batch: Batch) -> Tensor:
        answers = batch.task.answers
        said = [answers(other.logits.detach()) for other in others.values()]
        return self.config.beta * dml_loss(answers(own.logits), said, self.config.temperature)
