"""A student under training, with all that is its own."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trainables.compression.chain import check_steps
from trainables.compression.registry import parse_chain
from trainables.compression.step import Step
from trainables.config import TrialConfig
from trainables.data.dataset import Images
from trainables.data.views import to_float
from trainables.engine.precision import choose_precision, computing
from trainables.evaluation import score
from trainables.measurement.costs import costs_of
from trainables.methods.registry import TEACHER
from trainables.methods.term import STUDENT, Batch
from trainables.models.blueprint import Blueprint, Edit, build, edit, shapes_of
from trainables.models.outputs import Network, Outputs
from trainables.models.shapes import output_shapes
from trainables.randomness import Randomness
from trainables.tasks.task import Score
from trainables.teachers.start import Start
from trainables.training.feeding import Feed
from trainables.training.participants import Participants
from trainables.training.stream import Stream
from trainables.training.updates import Updates


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
        lessons: what the teachers that its method reads say to it, by role.
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
        classes, shape = stream.dataset.num_classes, stream.dataset.image_shape
        self.began = start.card.blueprint if start else Blueprint(student)
        told: Any = start.card if start else stream.dataset
        self.normalisation = told.mean, told.std
        self.precision = choose_precision(
            config.precision, "train", self.began, classes, shape, config.batch_size, self.device
        )
        self.random = Randomness(config.seed, self.device)
        with self.random:
            network = copy.deepcopy(start.network) if start else build(self.began, classes, shape)
            check_steps(steps, network, shape)
            self.shapes = output_shapes(network, shape)
            self.method = stream.method(config, self.shapes)
            self.networks = Participants(config, network, student, self.method, shape)
        self.lessons, self.maps = stream.lessons(self.method), stream.maps(self.method)
        self.contributions: dict[str, dict[str, int]] = {}
        self.note_costs(parse_chain(config.compression)[0])
        self.updates = Updates(config, self.device, steps)
        for name in self.networks:
            self._prepare(name)

    def _prepare(self, name: str) -> None:
        """Makes what holds the weights that a network has now: its optimizer, compiled passes."""
        self.networks.place(name, self.method, self.device)
        self.updates.begin(name, self.networks[name], self.method if name == STUDENT else None)

    @property
    def student(self) -> Network:
        """The network that all is about."""
        return self.networks[STUDENT]

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
            self.method = self.stream.method(self.config, shapes)
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
            taught = {
                role: answer
                for role, lesson in self.lessons.items()
                if (answer := lesson.taught(feed, self.method, batch)) is not None
            }
            inputs = self.method.images(self.floats(feed.views), batch)
            peers = self.method.learners(progress)
            words = inputs, self.method, batch, _greatest(taught.get(self.method.chooser))
            teacher = taught.pop(TEACHER, None)
            with computing(self.precision, self.device):
                said = {name: self.networks.said(name, *words) for name in (STUDENT, *peers)}
                others = {name: said[name] for name in peers}
                batch = batch._replace(inputs=inputs, peers=others, teachers=taught)
                losses: Tensor = self.method(said[STUDENT], teacher, batch)
            self.updates(STUDENT, losses.sum(), epoch)
            for before, name in zip((STUDENT, *peers), peers, strict=False):
                with computing(self.precision, self.device):
                    if self.method.takes_turns(name):
                        said[before] = self.networks.says_now(before, *words)
                    loss = self.method.peer_loss(name, said, batch)
                self.updates(name, loss, epoch)
            self.method.after_step(batch)
            return losses.detach()

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
