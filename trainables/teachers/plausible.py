"""Whether an imported network knows the data's classes, in the data's order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.errors import UserError

# How unlikely a guesser's luck must be.
_LUCK = 1e-3
# A class order other than the data's must explain so many more of the images to be a finding.
_GAIN = 0.1
_RECALL = 0.5
_SHOWN = 3


def check_plausible(
    predictions: Tensor, labels: Tensor, classes: Sequence[str], *, proof: bool = False
) -> None:
    """Refuses a network that guesses, or that has the classes in another order.

    Args:
        predictions, labels: of training images of all classes alike, int64 ``[n]``.
        classes: names of the data set's classes.
        proof: whether the network's accuracy is all that shows that its weights are in their
            places: it must then get more right than half of what a guesser gets wrong.

    Raises:
        UserError: with the accuracy, and the other order where one would explain it.
    """
    from scipy.stats import binom

    count, chance = len(labels), 1 / len(classes)
    hits = int((predictions == labels).sum())
    accuracy = hits / count
    said = f"{100 * accuracy:.1f} % of {count} training images are right"
    order = _better_order(predictions, labels, len(classes))
    if order is not None:
        moved = [(i, j) for i, j in enumerate(order) if i != j]
        named = ", ".join(f"'{classes[j]}' for '{classes[i]}'" for i, j in moved[:_SHOWN])
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        better = (torch.tensor(order)[labels] == predictions).float().mean().item()
        raise UserError(
            f"its classes seem to stand in another order: {said}, {100 * better:.1f} % if it says "
            f"{named}{more}; give --class-names in its order, or --force"
        )
    if binom.sf(hits - 1, count, chance) > _LUCK:
        raise UserError(
            f"it guesses: {said}, by chance {100 * chance:.1f} %; another architecture, other "
            "classes or another input normalisation? --force files it all the same"
        )
    if proof and accuracy < (1 + chance) / 2:
        raise UserError(
            f"its weights fit by the order of their shapes alone, and {said}: too few to show that "
            "they are in their places; rename its keys, or --force"
        )


def _better_order(predictions: Tensor, labels: Tensor, classes: int) -> list[int] | None:
    """For each class the logit that says it, where one-to-one that is clearly not its own."""
    from scipy.optimize import linear_sum_assignment

    confusion = torch.bincount(labels * classes + predictions, minlength=classes**2)
    confusion = confusion.view(classes, classes)
    _, columns = linear_sum_assignment(confusion.numpy(), maximize=True)
    order = torch.from_numpy(columns)
    own, best = confusion.diagonal(), confusion.gather(1, order[:, None]).squeeze(1)
    moved = order != torch.arange(classes)
    seen = confusion.sum(1).clamp(min=1)
    sure = (best / seen >= _RECALL) & (best > own)
    gain = (best - own).sum().item() / len(labels)
    if gain < _GAIN or not sure[moved].float().mean().item() > _RECALL:
        return None
    # Where nothing says so, a class keeps its place.
    return order.tolist()
