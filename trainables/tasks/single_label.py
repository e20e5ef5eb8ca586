"""Single-label: an image is of one class, and a softmax over the classes says of which."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.split import stratified_split, stratified_subset
from trainables.tasks.metrics import ACC
from trainables.tasks.task import Score, Task


class SingleLabel(Task):
    """Targets are class indices, int64 ``[N]``; the metric is the accuracy.

    Of classes with the same logit the first is what the network says: one that says the same of
    all classes has the accuracy of the first one's share.
    """

    name = "single-label"
    metrics = (ACC,)
    independent = False

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Of the softmax, mean over the batch."""
        return F.cross_entropy(logits, target)

    def answers(self, logits: Tensor) -> Tensor:
        """The logits as they are: one question, of which the classes are the answers."""
        return logits

    def split(self, labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
        return stratified_split(labels, fraction, seed)

    def subset(self, labels: Tensor, indices: Tensor, fraction: float, seed: int) -> Tensor:
        return stratified_subset(labels, indices, fraction, seed)

    def measured(self, said: Iterable[tuple[Tensor, Tensor]]) -> Score:
        sums, count = None, 0
        for logits, target in said:
            if sums is None:
                sums = torch.zeros(2, device=logits.device, dtype=torch.float64)
            sums[0] += F.cross_entropy(logits, target, reduction="sum")
            sums[1] += (logits.argmax(dim=1) == target).sum()
            count += len(target)
        assert sums is not None
        loss, acc = (sums / count).tolist()
        return Score(loss, {ACC.name: acc})


SINGLE_LABEL = SingleLabel()
