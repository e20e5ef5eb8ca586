"""A chain: how a trial's student becomes small, from its architecture to its last step."""

from collections.abc import Mapping

from trainables.compression.registry import config_of, parse_chain, part_class
from trainables.compression.step import Choice, Step
from trainables.models.family import ImageShape
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
