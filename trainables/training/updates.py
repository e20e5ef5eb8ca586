"""How the networks of a learner are brought on by the gradients of their losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.compression.step import Step
from trainables.config import TrialConfig
from trainables.errors import Diverged
from trainables.methods.term import STUDENT
from trainables.models.masks import apply_masks, masks
from trainables.models.outputs import Network
from trainables.optimizers.making import groups_of, make_optimizer, named_weights
from trainables.optimizers.rule import Weight
from trainables.training.schedule import learning_rate


class Updates:
    """The optimizers of a trial's networks, each with the network's weights.

    Args:
        config: the trial.
        device: where the weights are.
        steps: of the chain: what they keep of the student's weights holds behind every update.

    Attributes:
        optimizers: by the network's name.
        weights: what each of them has.
    """

    def __init__(self, config: TrialConfig, device: torch.device, steps: Sequence[Step]) -> None:
        self._config, self._device, self._steps = config, device, steps
        self._networks: dict[str, Network] = {}
        self._masked: dict[str, bool] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.weights: dict[str, list[Weight]] = {}

    def begin(self, name: str, network: Network, adaptors: nn.Module | None = None) -> None:
        """Makes the optimizer of a network, without momentum; of adaptors, too, trained with it."""
        self._networks[name], self._masked[name] = network, bool(masks(network))
        self.weights[name] = named_weights(network, adaptors)
        self.optimizers[name] = make_optimizer(self._config, self.weights[name], self._device)

    def __call__(self, name: str, loss: Tensor, epoch: float) -> None:
        """One update of a network.

        Args:
            name: of the network.
            loss: a scalar.
            epoch: epochs done, with the fraction of the current one.

        Raises:
            Diverged: the gradients leave an optimizer nothing to compute with.
        """
        optimizer, lr = self.optimizers[name], learning_rate(self._config, epoch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_ratio", 1.0)
        try:
            optimizer.step()
        except torch.linalg.LinAlgError as error:
            raise Diverged(
                f"{self._config.optimizer} found no eigenvectors in epoch {int(epoch) + 1}: the "
                "gradients became too large or no numbers; lower lr or a term's weight"
            ) from error
        with torch.no_grad():
            for step in self._steps if name == STUDENT else ():
                step.after_update(self._networks[name])
            if self._masked[name]:
                apply_masks(self._networks[name])

    def groups(self, name: str) -> dict[str, dict[str, Any]]:
        """Which of a network's weights which rule updates: see `groups_of`."""
        return groups_of(self.optimizers[name], self.weights[name], self._config.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Of the optimizers, by the networks' names."""
        return {name: one.state_dict() for name, one in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on as the others stood."""
        for name, one in self.optimizers.items():
            one.load_state_dict(state[name])
