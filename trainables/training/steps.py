"""When the steps of a chain change the student, and what they may look at."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.compression.rounds import epochs_before
from trainables.compression.step import Scene, Step
from trainables.data.batches import epoch_order, evaluation_batches
from trainables.errors import Diverged
from trainables.models.outputs import Outputs
from trainables.training.learner import Learner


class Call(NamedTuple):
    """A moment of a step.

    Attributes:
        moment: as the step has it, in [0, 1].
        position: of the step in the chain.
        step: whose moment it is.
    """

    moment: float
    position: int
    step: Step


def calls(steps: Sequence[Step], epochs: int, done: int) -> list[Call]:
    """The moments that come when so many epochs are done, in their order.

    Of equal moments those of the steps in front come first.

    Args:
        steps: in the order of the chain.
        epochs: of the whole training; the moments of its end come when all are done.
        done: epochs done.
    """
    found = [Call(moment, at, step) for at, step in enumerate(steps) for moment in step.moments]
    due = [call for call in found if epochs_before(call.moment, epochs) == done]
    return sorted(due, key=lambda call: (call.moment, call.position))


@torch.no_grad()
def take_steps(learner: Learner, done: int) -> list[str]:
    """Lets the steps change a student whose moment has come.

    Args:
        learner: the student, with its steps.
        done: epochs done: before the first update of the next one, or behind the last of all.

    Returns:
        The names of those steps.

    Raises:
        Diverged: naming the step behind which the student says no numbers.
    """
    due = calls(learner.steps, learner.config.epochs, done)
    for call in due:
        with learner.random:
            _check(learner, f"before step {call.step.name}, after {done} epochs; lower lr")
            edits = call.step.at(call.moment, _scene(learner, call))
            if edits:
                learner.edit(edits)
            learner.note_costs(call.step.name)
            _check(learner, f"after step {call.step.name}, which changed it after {done} epochs")
    return [call.step.name for call in due]


def _scene(learner: Learner, call: Call) -> Scene:
    data = learner.stream.dataset
    words = json.dumps([learner.config.seed, call.position, call.moment])
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        return _batches(learner, count)

    generator = torch.Generator().manual_seed(seed)
    network, task = learner.student.eval(), learner.stream.task
    shape, device = data.image_shape, learner.device
    return Scene(network, batches, generator, shape, device, task, learner.began)


def _batches(learner: Learner, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first training images of the first epoch, as they are, and their targets."""
    stream = learner.stream
    order = epoch_order(learner.config.seed, 0, stream.train_indices)[:count]
    for indices in evaluation_batches(order, learner.config.batch_size):
        pixels = stream.dataset.train.images[indices].to(learner.device)
        yield learner.floats(pixels), stream.labels[indices.to(learner.device)]


def _check(learner: Learner, when: str) -> None:
    """Whether the student says numbers to a training image. Waits for the device."""
    network = learner.student.eval()
    for images, _ in _batches(learner, 1):
        outputs: Outputs = network(images)
        if not outputs.logits.isfinite().all():
            raise Diverged(f"the student says no numbers {when}")
