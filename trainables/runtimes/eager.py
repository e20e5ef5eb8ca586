"""PyTorch as it is, operation by operation."""

import torch
from torch import Tensor

from trainables.models.outputs import Network
from trainables.runtimes.runtime import Answer, Runtime


class Eager(Runtime):
    """Calls the network itself, in inference mode."""

    def ready(self, network: Network, images: Tensor) -> Answer:
        @torch.inference_mode()
        def answer(batch: Tensor) -> Tensor:
            return network(batch).logits

        answer(images)
        return answer
