"""What every network of kdsweep returns."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from trainables.models.blueprint import Blueprint


class Outputs(NamedTuple):
    """One forward pass, from the classifier back to the early features.

    Attributes:
        logits: ``[B, classes]``, before softmax.
        embedding: ``[B, D]``, the input of the classifier.
        stages: one feature map ``[B, C, H, W]`` per spatial resolution, early to deep: the
            last feature the network computes at that resolution. Of a network of timm that keeps
            one resolution, as a transformer does: the last of each quarter of its blocks.
        shortcuts: of a residual network, one map per stage and of its shape: the shortcut of
            the stage's first block as it enters the sum, projected where the block projects,
            before addition and ReLU. Empty for other networks.
        features: what was asked for beside these, by key (`trainables.models.features`).
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...]
    shortcuts: tuple[Tensor, ...] = ()
    features: Mapping[str, Tensor] = MappingProxyType({})

    @classmethod
    def early(cls, stages: Iterable[Tensor], shortcuts: Iterable[Tensor] = ()) -> "Outputs":
        """Of a network that stopped behind one of its stages: logits and embedding are None."""
        return cls(None, None, tuple(stages), tuple(shortcuts))  # type: ignore[arg-type]


class Shapes(NamedTuple):
    """The shapes of a network's `Outputs` without the batch axis, and how they hang together.

    Attributes:
        classes: number of logits.
        embedding: width ``D`` of the embedding.
        stages: ``(C, H, W)`` of every stage, early to deep.
        shortcuts: ``(C, H, W)`` of every shortcut, early to deep; empty where there are none.
        pooled: whether the embedding is the last stage, averaged over its positions.
        features: of everything that can be asked for beside these, by key.
        flattened: whether the embedding is the last stage, or the maxima of its regions, with all
            positions side by side, channel by channel.
    """

    classes: int
    embedding: int
    stages: tuple[tuple[int, int, int], ...]
    shortcuts: tuple[tuple[int, int, int], ...] = ()
    pooled: bool = False
    features: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    flattened: bool = False

    def read(self, keys: Collection[str]) -> "Shapes":
        """Without the features that nobody reads."""
        found = {key: shape for key, shape in self.features.items() if key in keys}
        return self._replace(features=found)


class Network(nn.Module):
    """A classifier that returns `Outputs`.

    Attributes:
        classifier: the last linear layer, embedding -> logits.
        blueprint: what the network is, of one that `trainables.models.blueprint.build` made.
    """

    classifier: nn.Linear
    blueprint: "Blueprint"

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        """One forward pass, or its beginning.

        Args:
            images: normalised images ``[B, C, H, W]``.
            depth: stop behind so many stages, at least 1, which together with their shortcuts are
                then all that the outputs have. It saves work and is no promise: a network that
                cannot stop returns everything. None: all of it.
        """
        raise NotImplementedError
