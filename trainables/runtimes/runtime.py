"""The interface of what runs a trained network."""

from collections.abc import Callable

from torch import Tensor

from trainables.models.outputs import Network

Answer = Callable[[Tensor], Tensor]
"""From normalised images ``[B, C, H, W]`` of the one shape that it was made for to logits
``[B, classes]``."""


class Runtime:
    """A way to run a trained network in evaluation mode, without gradients.

    A new one is one file in this folder and one line in the registry.
    """

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, in a few words (``no C++ compiler``); None if it
        can. Must be quick, and load nothing that is not needed to know."""
        return None

    def ready(self, network: Network, images: Tensor) -> Answer:
        """What answers to batches like these.

        All that is done once (exporting, compiling, the first call) is done here. The network
        stays as it is; what is returned does not follow later changes of it.

        Args:
            network: in evaluation mode, on the images' device.
            images: normalised, ``[B, C, H, W]``, of the shape that all batches will have.

        Raises:
            UserError: this runtime cannot run this network; says why in one line.
        """
        raise NotImplementedError
