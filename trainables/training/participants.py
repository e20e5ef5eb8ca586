"""The networks that learn in a trial: the student, and those beside it."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.engine.compiling import CompiledNetwork
from trainables.methods.method import Method
from trainables.methods.parts import check_readable
from trainables.methods.term import STUDENT, Batch
from trainables.models.blueprint import Blueprint, build
from trainables.models.family import ImageShape
from trainables.models.features import with_features
from trainables.models.observe import observe
from trainables.models.outputs import Network, Outputs
from trainables.models.shapes import output_shapes
from trainables.once import warn_once

log = logging.getLogger(__name__)


class Participants(dict[str, Network]):
    """The networks by name: the student (`STUDENT`), and the peers of its method behind it.

    Args:
        config: the trial.
        student: with its weights.
        model: its name in the config, which a peer has that is of the student's own model.
        method: names the peers, which are built here, with fresh weights.
        image_shape: ``(C, H, W)`` of all images.

    Attributes:
        forward: the student's passes in training, compiled where the config asks for it.

    Raises:
        UserError: a peer does not have what the method reads of it.
    """

    def __init__(
        self,
        config: TrialConfig,
        student: Network,
        model: str,
        method: Method,
        image_shape: ImageShape,
    ) -> None:
        super().__init__({STUDENT: student})
        self.config = config
        self.forward: Callable[[Tensor], Outputs] = student
        classes = student.classifier.out_features
        for name, own in method.peers.items():
            self[name] = build(Blueprint(own or model), classes, image_shape)
        for name in method.peers:
            if asked := method.asked(name):
                shapes = output_shapes(self[name], image_shape)
                check_readable(config.method, name, asked, shapes)

    def place(self, name: str, method: Method, device: torch.device) -> None:
        """Brings a network to where it learns; the student's passes are those of what it is now."""
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        network = self[name].to(device).to(memory_format=layout)
        if name == STUDENT:
            compiled = self.config.compile and not _hinders(method)
            self.forward = CompiledNetwork(network) if compiled else network

    def said(
        self, name: str, inputs: Tensor, method: Method, batch: Batch, chosen: Tensor | None
    ) -> Outputs:
        """What a network says to its images, with gradients.

        Args:
            name: of the network.
            inputs: normalised, ``[B, C, H, W]``.
            method: says what is read of it.
            batch: whose images these are.
            chosen: the class whose logit the gradients of stages are of, ``[B]``; None: the
                likeliest to this network.
        """
        if asked := method.asked(name, batch.progress):
            words = self[name], inputs, asked, batch.shares
            return with_features(*words, learning=True, chosen=chosen)
        forward: Callable[[Tensor], Outputs] = self.forward if name == STUDENT else self[name]
        return forward(inputs)

    def says_now(
        self, name: str, inputs: Tensor, method: Method, batch: Batch, chosen: Tensor | None
    ) -> Outputs:
        """What a network says behind its update: as `said`, without gradients or a trace in it."""
        asked = method.asked(name, batch.progress)
        return observe(self[name], inputs, asked, batch.shares, chosen)


def _hinders(method: Method) -> bool:
    """Whether a method reads more of the student than compiled passes return."""
    if asked := ", ".join(sorted(method.asked(STUDENT))):
        warn_once(log, f"a student of which {asked} is read cannot be compiled")
    return bool(asked)
