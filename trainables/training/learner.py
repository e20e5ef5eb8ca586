"""A student under training, with all that is its own."""

import logging
from typing import Any

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Images
from trainables.data.views import to_float
from trainables.engine.compiling import CompiledNetwork
from trainables.engine.feeding import Feed
from trainables.engine.precision import choose_precision, computing
from trainables.evaluation import Score, score
from trainables.methods.method import Method, check_readable
from trainables.methods.term import STUDENT, Batch
from trainables.models.features import with_features
from trainables.models.observe import observe
from trainables.models.outputs import Outputs
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.once import warn_once
from trainables.optimizers.registry import OPTIMIZERS
from trainables.randomness import Randomness
from trainables.schedule import learning_rate
from trainables.training.stream import Stream

log = logging.getLogger(__name__)


class Learner:
    """A student with its method, peers, optimisers, precision and random numbers.

    However many learn from one stream in one process, each ends as if it had been alone.

    Args:
        config: the trial.
        student: name of the network to train, as `choose_student` resolved it.
        stream: what it learns from, of the same repeat.

    Attributes:
        networks: the student (key ``student``) and those that learn beside it, by term and name.
        optimizers: of each of them.
        random: what it draws from, in a context.
    """

    def __init__(self, config: TrialConfig, student: str, stream: Stream) -> None:
        self.config, self.stream, self.device = config, stream, stream.device
        data, teacher = stream.dataset, stream.teacher
        classes, shape = data.num_classes, data.image_shape
        self.precision = choose_precision(
            config.precision, "train", student, classes, shape, config.batch_size, self.device
        )
        self.random = Randomness(config.seed, self.device)
        with self.random:
            network = create_model(student, classes, shape)
            self.method = Method(
                config.method,
                config.terms,
                output_shapes(network, shape),
                output_shapes(teacher.network, shape) if teacher else None,
            )
            stream.check(config, self.method)
            if self.method.needs and teacher:
                self.method.attach(teacher.network, data.train.labels, stream.train_indices)
            self.networks = {STUDENT: network} | {
                name: create_model(model or student, classes, shape)
                for name, model in self.method.peers.items()
            }
            for name in self.method.peers:
                if asked := self.method.asked(name):
                    says = output_shapes(self.networks[name], shape)
                    check_readable(config.method, name, asked, says)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        for network in self.networks.values():
            network.to(self.device).to(memory_format=layout)
        self.method.to(self.device)
        self.student = self.networks[STUDENT]
        compiled = config.compile and not self._hindered()
        self.forward = CompiledNetwork(self.student, student) if compiled else self.student
        self.lesson = stream.lesson(self.method)
        self.optimizers = {
            name: OPTIMIZERS[config.optimizer](config, self._weights(name), self.device)
            for name in self.networks
        }

    def _weights(self, name: str) -> list[torch.nn.Parameter]:
        """What is trained with a network; the adaptors of the method go with the student."""
        adaptors = [*self.method.parameters()] if name == STUDENT else []
        return [*self.networks[name].parameters(), *adaptors]

    def _hindered(self) -> bool:
        """Whether the student cannot be compiled, because more than its outputs is read of it."""
        asked = ", ".join(sorted(self.method.asked(STUDENT)))
        if asked:
            warn_once(log, f"a student of which {asked} is read cannot be compiled")
        return bool(asked)

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
            batch = self.method.draw(Batch(target, feed.there, epoch, progress, feed.offsets))
            taught = self._taught(feed, batch)
            inputs = self.method.images(self._floats(feed.views), batch)
            peers = self.method.learners(progress)
            with computing(self.precision, self.device):
                said = {name: self._said(name, inputs, batch) for name in (STUDENT, *peers)}
                batch = batch._replace(inputs=inputs, peers={name: said[name] for name in peers})
                losses: Tensor = self.method(said[STUDENT], taught, batch)
            self._update(STUDENT, losses.sum(), epoch)
            for before, name in zip((STUDENT, *peers), peers, strict=False):
                with computing(self.precision, self.device):
                    if self.method.takes_turns(name):
                        asked = self.method.asked(name, progress)
                        said[before] = observe(self.networks[before], inputs, asked, batch.shares)
                    loss = self.method.peer_loss(name, said, batch)
                self._update(name, loss, epoch)
            self.method.after_step(batch)
            return losses.detach()

    def _said(self, name: str, inputs: Tensor, batch: Batch) -> Outputs:
        """What a network that learns says to its images, with gradients."""
        network = self.networks[name]
        if asked := self.method.asked(name, batch.progress):
            return with_features(network, inputs, asked, batch.shares, learning=True)
        said: Outputs = self.forward(inputs) if name == STUDENT else network(inputs)
        return said

    def _taught(self, feed: Feed, batch: Batch) -> Outputs | None:
        """What the teacher says to the very views that the student sees."""
        if self.lesson is None or not self.method.reads(batch.progress):
            return None
        if self.method.plain_teacher:
            return self.method.taught(self.lesson(feed), batch)
        return self.lesson.changed(feed, lambda images: self.method.images(images, batch), batch)

    def _update(self, name: str, loss: Tensor, epoch: float) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.config, epoch)
        optimizer.step()

    def score(self, images: Images, name: str = STUDENT, positions: Tensor | None = None) -> Score:
        """Scores one of the networks on images (those at ``positions``) as they are."""
        network = self.networks[name].eval()

        def logits_of(pixels: Tensor) -> Tensor:
            outputs: Outputs = network(self._floats(pixels))
            return outputs.logits

        with self.random:
            return score(logits_of, images, self.device, positions)

    def _floats(self, pixels: Tensor) -> Tensor:
        """uint8 images as the student takes them."""
        data = self.stream.dataset
        return to_float(pixels, data.mean, data.std, channels_last=self.config.channels_last)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, random numbers included."""
        return {
            "precision": self.precision,
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "method": self.method.state_dict(),
            "optimizers": {name: one.state_dict() for name, one in self.optimizers.items()},
            "random": self.random.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where the other learner stood."""
        self.precision = state["precision"]
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])
        self.method.load_state_dict(state["method"])
        self.random.load_state_dict(state["random"])
