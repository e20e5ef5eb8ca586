"""A chain: how a trial's student becomes small, from its architecture to its last step."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.compression.registry import config_of, parse_chain, part_class
from trainables.compression.step import Choice, Step
from trainables.errors import UserError
from trainables.models.fake_quantised import fake_quantised
from trainables.models.family import ImageShape
from trainables.models.int8 import has_int8
from trainables.models.outputs import Network
from trainables.settings import Scalar


class Chain:
    """A compression with its settings.

    Args:
        compression: ``+``-joined parts.
        settings: as `registry.resolve_chain` returns them.

    Attributes:
        choice: of the architecture.
        steps: what is done to the network, in their order.
    """

    def __init__(self, compression: str, settings: Mapping[str, Scalar]) -> None:
        choice, steps = parse_chain(compression)
        self.choice: Choice = part_class(choice)(config_of(choice, settings))  # type: ignore[assignment]
        self.steps: tuple[Step, ...] = tuple(
            part_class(name)(config_of(name, settings))  # type: ignore[misc]
            for name in steps
        )
        for name, step in zip(steps, self.steps, strict=True):
            step.name = name

    def named(self, student: str) -> str | None:
        """What can be told of the network without the images and the teacher: `Choice.named`."""
        return self.choice.named(student)

    def choose(
        self, student: str, *, teacher_params: int | None, classes: int, image_shape: ImageShape
    ) -> str:
        """The canonical name of the network to train: `Choice.choose`."""
        return self.named(student) or self.choice.choose(
            student, teacher_params=teacher_params, classes=classes, image_shape=image_shape
        )


def check_steps(
    steps: Sequence[Step],
    network: Network,
    image_shape: ImageShape,
    done: set[tuple[Any, ...]] | None = None,
) -> None:
    """Refuses a student that one of the steps cannot work on: `Step.check`.

    Args:
        steps: in the order of the chain.
        network: the student before the first of them.
        image_shape: ``(C, H, W)``.
        done: which checks of steps on networks need not be done again; is added to.

    Raises:
        UserError: by the step; also where its moments are none of the training, another one
            follows that would spoil what it leaves, or a student as `start` gives it is
            quantised already.
    """
    for step, behind in itertools.combinations(steps, 2):
        _check_order(step, behind)
        behind.check_behind(step)
    quantised = bool(fake_quantised(network))
    for step in steps:
        if not all(0 <= moment <= 1 for moment in step.moments):
            raise UserError(
                f"compression: step '{step.name}' comes at {list(step.moments)}, "
                "expected shares of the training from 0 to 1"
            )
        if quantised and step.name not in (part_class("qat").followers or ()):  # type: ignore[union-attr]
            raise UserError(f"{step.name}: the student is fake-quantised already, as by 'qat'")
        if has_int8(network):
            raise UserError(
                f"{step.name}: the student has layers of integers already, as by 'int8'"
            )
        check = (network.blueprint, step.name, step.config)
        if done is None or check not in done:
            step.check(network, image_shape)
        if done is not None:
            done.add(check)
    _check_cuts(steps)


def _check_cuts(steps: Sequence[Step]) -> None:
    """Refuses cuts behind what is told in shares of all weights, or in neighbours."""
    for at, step in enumerate(steps):
        for other, cutting in enumerate(steps):
            if step.counts and cutting.cuts and _last(step, at) < _last(cutting, other):
                raise UserError(
                    f"compression: '{cutting.name}' would cut behind the last round of "
                    f"'{step.name}', and what that leaves would be another share; write "
                    f"{cutting.name}+{step.name}, or let {step.name} end after {cutting.name} does"
                )


def _last(step: Step, position: int) -> tuple[float, int]:
    return max(step.moments, default=0.0), position


def _check_order(step: Step, behind: Step) -> None:
    """Refuses a step that another one behind it, or going on beside it, would spoil."""
    if step.followers is not None and behind.name not in step.followers:
        allowed = " or ".join(f"'{name}'" for name in sorted(step.followers))
        what = f"only {allowed} may follow" if allowed else f"'{step.name}' has to be the last step"
        raise UserError(
            f"compression: '{behind.name}' would change what '{step.name}' leaves; {what}"
        )
    last, first = max(step.moments, default=0), min(behind.moments, default=1)
    if behind.followers is not None and last > first:
        raise UserError(
            f"compression: '{step.name}' goes on until {last:g} of the training, but "
            f"'{behind.name}' begins at {first:g}; expected {step.name} to end before"
        )
