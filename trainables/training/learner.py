"""A student under training, with all that is its own."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.compression.chain import check_steps
from trainables.compression.registry import parse_chain
from trainables.compression.step import Step
from trainables.config import TrialConfig
from trainables.data.dataset import Images
from trainables.data.views import to_float
from trainables.engine.compiling import CompiledNetwork
from trainables.engine.precision import choose_precision, computing
from trainables.evaluation import score
from trainables.measurement.costs import costs_of
from trainables.methods.method import Method
from trainables.methods.parts import check_readable
from trainables.methods.term import STUDENT, Batch
from trainables.models.blueprint import Blueprint, Edit, build, edit, shapes_of
from trainables.models.family import ImageShape
from trainables.models.features import with_features
from trainables.models.masks import apply_masks, masks
from trainables.models.observe import observe
from trainables.models.outputs import Network, Outputs
from trainables.models.shapes import output_shapes
from trainables.once import warn_once
from trainables.randomness import Randomness
from trainables.tasks.task import Score
from trainables.teachers.start import Start
from trainables.training.feeding import Feed
from trainables.training.stream import Stream
from trainables.training.updates import Updates

log = logging.getLogger(__name__)


class Learner:
    """A student with its method, steps, peers, optimisers, precision and random numbers.

    However many learn from one stream in one process, each ends as if it had been alone.

    Args:
        config: the trial.
        student: name of the network to train, as `Chain.choose` found it.
        stream: what it learns from, of the same repeat.
        steps: what changes the student, in the order of the chain.
        start: what it begins with, a copy of the weights and the edits; None for fresh weights.

    Attributes:
        began: what the student was before the first step.
        normalisation: mean and deviation of the images that the networks see, per channel: those
            of the start, or of the data set.
        networks: the student (key ``student``) and those that learn beside it, by term and name.
        updates: the optimizers of each of them.
        random: what it draws from, in a context.
        contributions: what the student cost behind each part of the chain whose turn has come,
            by the part's name: the architecture as it began, and a step's last moment so far.

    Raises:
        UserError: a step cannot work on this student.
    """

    def __init__(
        self,
        config: TrialConfig,
        student: str,
        stream: Stream,
        steps: Sequence[Step] = (),
        start: Start | None = None,
    ) -> None:
        self.config, self.stream, self.device, self.steps = config, stream, stream.device, steps
        data = stream.dataset
        classes, shape = data.num_classes, data.image_shape
        blueprint = start.card.blueprint if start else Blueprint(student)
        told: Any = start.card if start else data
        self.began, self.normalisation = blueprint, (told.mean, told.std)
        self.precision = choose_precision(
            config.precision, "train", blueprint, classes, shape, config.batch_size, self.device
        )
        self.random = Randomness(config.seed, self.device)
        with self.random:
            network = copy.deepcopy(start.network) if start else build(blueprint, classes, shape)
            check_steps(steps, network, shape)
            self.shapes = output_shapes(network, shape)
            self.method = self._method()
            stream.check(config, self.method)
            self.networks = {STUDENT: network} | {
                name: build(Blueprint(model or student), classes, shape)
                for name, model in self.method.peers.items()
            }
            _check_peers(config.method, self.method, self.networks, shape)
        self.lesson, self.maps = stream.lesson(self.method), stream.maps(self.method)
        self.contributions: dict[str, dict[str, int]] = {}
        self.note_costs(parse_chain(config.compression)[0])
        self.updates = Updates(config, self.device)
        for name in self.networks:
            self._prepare(name)

    def _method(self) -> Method:
        """The method for the student's shapes, with fresh adaptors."""
        config, teacher, data = self.config, self.stream.teacher, self.stream.dataset
        above = output_shapes(teacher.network, data.image_shape) if teacher else None
        made = Method(config.method, config.terms, self.shapes, above, self.stream.task)
        if made.needs and teacher:
            made.attach(teacher.network, data.train.labels, self.stream.train_indices)
        return made.to(self.device)

    def _prepare(self, name: str) -> None:
        """Places a network, and makes what holds its weights: the optimizer, compiled passes."""
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        network = self.networks[name].to(self.device).to(memory_format=layout)
        if name == STUDENT:
            self._masked = bool(masks(network))
            compiled = self.config.compile and not _hinders(self.method)
            self.forward = CompiledNetwork(network) if compiled else network
        self.updates.begin(name, network, self.method if name == STUDENT else None)

    @property
    def student(self) -> Network:
        """The network that all is about."""
        return self.networks[STUDENT]

    @property
    def optimizer_groups(self) -> dict[str, dict[str, Any]]:
        """Which of the student's weights which rule updates."""
        return self.updates.groups(STUDENT)

    def note_costs(self, part: str) -> None:
        """What the student costs now is what a part of the chain has left."""
        self.contributions[part] = costs_of(self.student, self.stream.dataset.image_shape)

    def edit(self, changes: Sequence[Edit]) -> None:
        """Applies edits to the student.

        Its optimizer begins anew with the weights that there are, without momentum; so do the
        method's adaptors where the shapes of the student's outputs are others now. Its precision
        stays.

        Raises:
            UserError: an edit does not fit.
        """
        with self.random:
            for change in changes:
                edit(self.student, change, self.stream.dataset.image_shape)
            self._refit()

    def _refit(self) -> None:
        """Makes anew what hangs on a student that is another network now."""
        data = self.stream.dataset
        shapes = shapes_of(self.student.blueprint, data.num_classes, data.image_shape)
        asked = self.method.asked(STUDENT)
        if shapes.read(asked) != self.shapes.read(asked):
            self.shapes = shapes
            self.method = self._method()
        self._prepare(STUDENT)

    def train(self) -> None:
        """Gets ready for steps, after scores were taken."""
        for module in (*self.networks.values(), self.method):
            module.train()

    def step(self, feed: Feed, epoch: float) -> Tensor:
        """One update of every network on one batch.

        Args:
            feed: the batch, from the stream.
            epoch: epochs done, with the fraction of the current one.

        Returns:
            The summands of the loss, ``[len(method.parts)]``, on the device.
        """
        with self.random:
            progress = epoch / self.config.epochs
            target = self.stream.labels[feed.there]
            batch = Batch(
                *(target, feed.there, epoch, progress, feed.offsets),
                task=self.stream.task,
                maps=self.maps(feed) if self.maps else None,
                normalisation=self.normalisation,
            )
            batch = self.method.draw(batch)
            taught = self._taught(feed, batch)
            inputs = self.method.images(self.floats(feed.views), batch)
            peers = self.method.learners(progress)
            with computing(self.precision, self.device):
                chosen = _greatest(taught)
                said = {name: self._said(name, inputs, batch, chosen) for name in (STUDENT, *peers)}
                batch = batch._replace(inputs=inputs, peers={name: said[name] for name in peers})
                losses: Tensor = self.method(said[STUDENT], taught, batch)
            self._update(STUDENT, losses.sum(), epoch)
            for before, name in zip((STUDENT, *peers), peers, strict=False):
                with computing(self.precision, self.device):
                    if self.method.takes_turns(name):
                        asked = self.method.asked(name, progress)
                        said[before] = observe(
                            self.networks[before], inputs, asked, batch.shares, chosen
                        )
                    loss = self.method.peer_loss(name, said, batch)
                self._update(name, loss, epoch)
            self.method.after_step(batch)
            return losses.detach()

    def _said(self, name: str, inputs: Tensor, batch: Batch, chosen: Tensor | None) -> Outputs:
        """What a network that learns says to its images, with gradients."""
        if asked := self.method.asked(name, batch.progress):
            return with_features(
                self.networks[name], inputs, asked, batch.shares, learning=True, chosen=chosen
            )
        forward = self.forward if name == STUDENT else self.networks[name]
        return forward(inputs)

    def _taught(self, feed: Feed, batch: Batch) -> Outputs | None:
        """What the teacher says to the very views that the student sees."""
        if self.lesson is None or not self.method.reads(batch.progress):
            return None
        if self.method.plain_teacher:
            return self.method.taught(self.lesson(feed), batch)
        theirs = batch._replace(normalisation=self.lesson.normalisation)
        return self.lesson.changed(feed, lambda images: self.method.images(images, theirs), batch)

    def _update(self, name: str, loss: Tensor, epoch: float) -> None:
        self.updates(name, loss, epoch)
        if name == STUDENT:
            with torch.no_grad():
                for step in self.steps:
                    step.after_update(self.student)
                if self._masked:
                    apply_masks(self.student)

    def score(self, images: Images, name: str = STUDENT, positions: Tensor | None = None) -> Score:
        """Scores one of the networks on images (those at ``positions``) as they are."""
        network = self.networks[name].eval()
        with self.random:
            return score(
                lambda pixels: network(self.floats(pixels)).logits,
                images,
                self.device,
                self.stream.task,
                positions,
            )

    def floats(self, pixels: Tensor) -> Tensor:
        """uint8 images as the student, and those that learn beside it, take them."""
        return to_float(pixels, *self.normalisation, channels_last=self.config.channels_last)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, random numbers included."""
        return {
            "precision": self.precision,
            "blueprint": self.student.blueprint.to_json(),
            "contributions": self.contributions,
            "steps": [step.state_dict() for step in self.steps],
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "method": self.method.state_dict(),
            "optimizers": self.updates.state_dict(),
            "random": self.random.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where the other learner stood."""
        self.precision = state["precision"]
        self.contributions = state["contributions"]
        blueprint = Blueprint.from_json(state["blueprint"])
        if blueprint != self.student.blueprint:
            data = self.stream.dataset
            with self.random:
                self.networks[STUDENT] = build(blueprint, data.num_classes, data.image_shape)
                self._refit()
        for step, own in zip(self.steps, state["steps"], strict=True):
            step.load_state_dict(own)
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        self.updates.load_state_dict(state["optimizers"])
        self.method.load_state_dict(state["method"])
        self.random.load_state_dict(state["random"])


def _greatest(taught: Outputs | None) -> Tensor | None:
    """The class of each image that the teacher holds for the likeliest, ``[B]``, if it says."""
    return None if taught is None or taught.logits is None else taught.logits.argmax(1)


def _check_peers(
    name: str, method: Method, networks: Mapping[str, Network], image_shape: ImageShape
) -> None:
    """Refuses peers that do not have what is read of them."""
    for peer in method.peers:
        if asked := method.asked(peer):
            check_readable(name, peer, asked, output_shapes(networks[peer], image_shape))


def _hinders(method: Method) -> bool:
    """Whether a method reads more of the student than compiled passes return."""
    if asked := ", ".join(sorted(method.asked(STUDENT))):
        warn_once(log, f"a student of which {asked} is read cannot be compiled")
    return bool(asked)
