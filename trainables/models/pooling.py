"""Whether a network's embedding is its last feature map, averaged over positions or flattened.

Widths do not tell: VGG at 32 pixels takes the maximum of a map of as many channels, a transformer
reads its class token, DenseNet has a ReLU between. The graph of one forward pass does, also on the
meta device, where nothing is computed.
"""

from typing import Any

from torch import Tensor

# Steps that only rearrange the values of a map, or copy them.
_SHAPING = {
    *("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "AliasBackward0"),
    *("SqueezeBackward0", "SqueezeBackward1", "SqueezeBackward2", "UnsqueezeBackward0"),
    *("CloneBackward0", "ToCopyBackward0", "AsStridedBackward0", "AsStridedBackward1"),
}


def is_average(embedding: Tensor, stage: Tensor) -> bool:
    """Whether an embedding is the mean of a stage over all of its positions.

    Args:
        embedding: ``[B, D]``, of a forward pass that has recorded its graph.
        stage: ``[B, C, H, W]`` of the same pass.

    Returns:
        False also where the way from one to the other is not understood.
    """
    if embedding.shape != stage.shape[:2] or stage.grad_fn is None:
        return False
    averaged = False
    step: Any = embedding.grad_fn
    while step is not None and step is not stage.grad_fn:
        if step.name() not in _SHAPING:
            if averaged or not _averages_all(step, stage):
                return False
            averaged = True
        before = [upper for upper, _ in step.next_functions if upper is not None]
        step = before[0] if len(before) == 1 else None
    # Of one position there is nothing to average.
    return step is not None and (averaged or stage.shape[2:].numel() == 1)


def is_flattened(embedding: Tensor, stage: Tensor) -> bool:
    """Whether an embedding is a stage with its positions side by side, channel by channel.

    Args:
        embedding, stage: as for `is_average`.

    Returns:
        True also where maxima of regions are taken before; False where the way from one to the
        other is not understood.
    """
    channels = stage.shape[1]
    if stage.grad_fn is None or embedding.ndim != 2 or embedding.shape[1] % channels:
        return False
    step: Any = embedding.grad_fn
    while step is not None and step is not stage.grad_fn:
        strided = step.name().startswith("AsStrided")  # may bring them into another order
        if strided or (step.name() not in _SHAPING and not _takes_maxima(step, channels)):
            return False
        before = [upper for upper, _ in step.next_functions if upper is not None]
        step = before[0] if len(before) == 1 else None
    return step is not None


def _takes_maxima(step: Any, channels: int) -> bool:
    if step.name() not in ("MaxPool2DWithIndicesBackward0", "AdaptiveMaxPool2DBackward0"):
        return False
    size = tuple(step._saved_self.shape)
    return len(size) == 4 and size[1] == channels


def _averages_all(step: Any, stage: Tensor) -> bool:
    """Whether a step takes the mean over every position of a map of the stage's size."""
    size = tuple(stage.shape)
    if step.name() == "AdaptiveAvgPool2DBackward0":
        return tuple(step._saved_self.shape) == size  # one position is what is left in the end
    if step.name() == "AvgPool2DBackward0":
        whole = tuple(step._saved_kernel_size) == size[2:] and not any(step._saved_padding)
        return whole and tuple(step._saved_self.shape) == size
    if step.name() != "MeanBackward1":
        return False
    before = tuple(step._saved_self_sym_sizes)
    axes = {axis % 2**64 for axis in step._saved_dim or ()}
    axes = {axis - 2**64 if axis >= 2**63 else axis for axis in axes}
    axes = {axis % len(before) for axis in axes}
    flat = (*size[:2], stage.shape[2:].numel())
    return before in (size, flat) and axes == set(range(2, len(before)))
