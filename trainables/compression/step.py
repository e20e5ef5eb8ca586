"""The interfaces of a chain's parts.

A `Choice` picks the architecture before anything is built. A `Step` changes the built network:
before the training, at points of it, or after it. A new one of either kind is one file in this
folder and one line in the registry.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from trainables.models.blueprint import Blueprint, Edit
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.tasks.single_label import SINGLE_LABEL
from trainables.tasks.task import Task

COSTS = ("params", "macs", "size_bytes", "bit_operations", "activation_bytes", "latency_ms")
"""What a network costs that training does not change, as columns of ``trials``."""

Span = tuple[float, float]
"""The least and the greatest factor by which something may change."""


def rounded_spans(bits: int) -> Mapping[str, Span]:
    """`Step.spans` of a step that leaves weights of so many bits, or a few more, in a network
    that computes as before."""
    return dict.fromkeys(("size_bytes", "bit_operations"), (bits / 32, 1.0))


class Choice:
    """A choice of architecture. A chain has at most one, in the first place.

    Args:
        config: an instance of `Config`.

    Attributes:
        Config: a frozen dataclass of `trainables.settings.setting` fields. The one called
            ``amount`` has the choice's own name as its key (``factor: 8``), any other is written
            behind it (``factor.tolerance``).
    """

    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    def named(self, student: str) -> str | None:
        """What can be told without the images and the teacher.

        Args:
            student: a model name, or the name of a family where the choice takes one.

        Returns:
            The canonical name of the student; None where the teacher decides.

        Raises:
            UserError: an unknown name, or a request that this student cannot meet.
        """
        raise NotImplementedError

    def choose(
        self, student: str, *, teacher_params: int | None, classes: int, image_shape: ImageShape
    ) -> str:
        """The canonical name of the network to train.

        Args:
            student: as for `named`.
            teacher_params: trainable parameters of the teacher; None without one.
            classes: number of classes of the data.
            image_shape: ``(C, H, W)`` of its images.

        Raises:
            UserError: a request that this student cannot meet.
        """
        raise NotImplementedError


class Scene(NamedTuple):
    """What a step may look at when its moment has come.

    Attributes:
        network: the student, in evaluation mode. Weights may be changed in place; modules only by
            the edits that the step returns.
        batches: called with a number of images: that many training images in batches, normalised
            and not augmented, ``[B, C, H, W]``, with their targets; the same ones in every call.
        generator: for whatever the step draws; it follows from the trial's seed and the moment.
        image_shape: ``(C, H, W)``.
        device: where the network is.
        task: of the data: it has the loss of the targets.
        began: what the student was before the first step, edits of its start included; None: the
            model as it is named.
    """

    network: Network
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    generator: torch.Generator
    image_shape: ImageShape
    device: torch.device
    task: Task = SINGLE_LABEL
    began: Blueprint | None = None


class Step:
    """A change of the network.

    Args:
        config: an instance of `Config`.

    Attributes:
        Config: as for `Choice`.
        moments: when `at` is called, as shares of the training in [0, 1], growing: 0 is before
            the first epoch, 1 behind the last update and before the last validation. A moment
            between two epochs counts as the next beginning of one.
        followers: names of the steps that may stand behind it in a chain; None: any, and empty:
            none, as anything would spoil weights that are quantised. Where it is not None, the
            steps in front have to be done when this one begins.
        cuts: whether it takes weights away, so that shares and neighbours among them are others.
        counts: whether what it leaves is told in shares or neighbours. Then no step that cuts
            comes behind its last moment.
        name: what the chain calls it, for errors.
    """

    Config: ClassVar[type]
    followers: ClassVar[Collection[str] | None] = None
    cuts: ClassVar[bool] = False
    counts: ClassVar[bool] = False
    moments: Sequence[float] = ()
    name: str = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self, network: Network, image_shape: ImageShape) -> None:
        """Refuses a student that the step cannot work on, before anything is trained.

        Args:
            network: as the choice of architecture made it; on the ``meta`` device, perhaps.
            image_shape: ``(C, H, W)``.

        Raises:
            UserError: naming the step's key, and what was expected.
        """

    def check_behind(self, step: "Step") -> None:
        """Refuses to go on from what another step of the chain leaves, before anything is trained.

        Args:
            step: one in front of this one, near or far.

        Raises:
            UserError: naming the key of the other step, and what was expected.
        """

    def spans(self) -> Mapping[str, Span]:
        """How much every cost of `COSTS` may change until the step is over, as far as that is
        known before; one that is not listed stays as it is.

        By this a student is judged that has not been changed yet: one that will surely violate a
        constraint is not trained. Of a step that does not say, nothing is sure.
        """
        return dict.fromkeys(COSTS, (0.0, math.inf))

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        """Changes weights in place, and says what else is to be done to the network.

        Gradients are off; a step that needs some switches them on (``torch.enable_grad``).

        Args:
            moment: one of ``moments``.
            scene: the network and its surroundings.

        Returns:
            Edits, applied in their order after the call; what they are is part of the
            network's blueprint from then on, and the optimizer begins anew with the weights that
            there are. None for weights alone.
        """
        return ()

    def after_update(self, network: Network) -> None:
        """Called after every update of the student's weights, without gradients.

        Masks of edits (`trainables.models.masks.Masked`) are kept by the learner; whatever else a
        step holds fast is held here. It must not wait for the device.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the step keeps from one call to the next, masks for example: tensors, numbers,
        texts, and lists and dicts of them. An interrupted training hands it back."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with what `state_dict` of another instance returned, tensors on the CPU."""
