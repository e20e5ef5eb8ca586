"""Steps of a chain that cut, mask, spoil or only watch a student in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.compression.step import Scene, Step
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.models.blueprint import Edit
from trainables.models.edits import Channels
from trainables.models.outputs import Network
from trainables.training import Training

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Nothing:
    """No settings."""


class Halve(Step):
    """Keeps the larger half of the channels inside every block of a WRN."""

    Config, name = Nothing, "halve"

    def __init__(self, *moments: float) -> None:
        super().__init__(Nothing())
        self.moments = moments

    def check(self, network: Network, image_shape: tuple[int, int, int]) -> None:
        if not blocks(network):
            raise UserError("halve: expected a student of residual blocks")

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        outputs, inputs = {}, {}
        for name, conv in blocks(scene.network).items():
            norms = conv.weight.detach().abs().sum((1, 2, 3))
            kept = norms.topk(len(norms) // 2).indices
            outputs |= {f"{name}.conv1": kept, f"{name}.bn2": kept}
            inputs[f"{name}.conv2"] = kept
        return [Channels.kept(outputs, inputs)]


class Narrow(Halve):
    """Cuts what the classifier reads: the shapes of the outputs are others then."""

    name = "narrow"

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        kept = range(scene.network.classifier.in_features - 3)
        last = [name for name in blocks(scene.network) if name.startswith("group3")]
        outputs = dict.fromkeys([*(f"{name}.conv2" for name in last), "bn"], kept)
        outputs[f"{last[0]}.shortcut"] = kept
        return [Channels.kept(outputs, {"classifier": kept})]


class Mask(Step):
    """Sets weights of the first convolution to zero and keeps them there."""

    Config, name = Nothing, "mask"
    moments = (0.3,)
    mask: torch.Tensor | None = None

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        weight = scene.network.get_parameter("conv1.weight")
        self.mask = torch.rand(weight.shape, generator=scene.generator) < 0.5
        weight *= self.mask
        return ()

    def after_update(self, network: Network) -> None:
        assert not torch.is_grad_enabled()
        if self.mask is not None:
            network.get_parameter("conv1.weight").mul_(self.mask)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.mask is None else {"mask": self.mask}

    def load_state_dict(self, state: Any) -> None:
        self.mask = state.get("mask")


class Spoil(Step):
    """Makes the student say nothing: before the training's end, or in training mode alone."""

    Config, name = Nothing, "spoil"

    def __init__(self, moment: float, tensor: str) -> None:
        super().__init__(Nothing())
        self.moments, self.tensor = (moment,), tensor

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        if self.tensor == "momentum":
            scene.network.register_forward_hook(
                lambda network, _, outputs: (
                    outputs._replace(logits=outputs.logits * torch.nan)
                    if network.training
                    else outputs
                )
            )
        else:
            scene.network.get_parameter(self.tensor)[0] = torch.nan
        return ()


class Watch(Step):
    """Writes down what it is shown."""

    Config, name = Nothing, "watch"

    def __init__(self, *moments: float) -> None:
        super().__init__(Nothing())
        self.moments = moments
        self.seen: list[tuple[float, Scene]] = []

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        assert not scene.network.training
        assert not torch.is_grad_enabled()
        self.seen.append((moment, scene))
        return ()


def blocks(network: Network) -> dict[str, nn.Conv2d]:
    """First convolutions of the residual blocks, by the block's name."""
    return {
        name.removesuffix(".conv1"): module
        for name, module in network.named_modules()
        if name.endswith(".conv1") and isinstance(module, nn.Conv2d)
    }


def train(config: TrialConfig, dataset: Dataset, teacher: Any, *steps: Step) -> Training:
    """A training of the config's own student on the CPU, with these steps."""
    return Training(config, dataset, config.student, teacher, CPU, steps)
