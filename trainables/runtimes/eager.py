"""PyTorch as it is, operation by operation."""

from torch import Tensor

from trainables.models.outputs import Network
from trainables.runtimes.runtime import Answer, Runtime


class Eager(Runtime):
    """Calls the network itself."""

    def ready(self, network: Network, images: Tensor) -> Answer:
        network(images)
        return lambda batch: network(batch).logits
