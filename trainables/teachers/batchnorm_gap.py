"""How far what a network's first BatchNorm sees is from what it saw in training."""

import torch
from torch import Tensor, nn

from trainables.data.dataset import Dataset
from trainables.data.views import ViewPlan, crop_flip, to_float
from trainables.models.outputs import Network

_BATCH = 128


@torch.no_grad()
def statistics_gap(
    network: Network,
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dataset: Dataset,
    device: torch.device,
) -> float | None:
    """How far what the first BatchNorm sees is from what it saw in training.

    The least Kullback-Leibler divergence of two normal distributions, mean over channels, in
    nats, over the usual kinds of random crop: none, padded before or after the normalisation.

    Args:
        network: in evaluation mode, on ``device``.
        images: uint8 ``[N, C, H, W]``.
        mean, std: the normalisation.
        dataset: gives size and flip of the crops.
        device: where.

    Returns:
        None where the network has no BatchNorm with statistics.
    """
    padding = dataset.crop_padding or max(1, dataset.image_shape[1] // 8)
    plan = ViewPlan(padding=padding, flip=dataset.flip, seed=0)
    gaps = []
    for crop in ("none", "before", "after"):
        moments, norm = _Moments(), None
        for part in torch.arange(len(images)).split(_BATCH):
            pixels = images[part].to(device)
            offsets = plan.offsets(0, part.to(device))
            if crop == "before":
                pixels = crop_flip(pixels, offsets, padding)
            floats = to_float(pixels, mean, std)
            if crop == "after":
                floats = crop_flip(floats, offsets, padding)
            norm = _first_norm(network, floats, moments)
        if norm is None:
            return None
        gaps.append(moments.divergence(norm))
    return min(gaps)


class _Moments:
    """Mean and variance of feature maps per channel, over several batches."""

    def __init__(self) -> None:
        self.count = 0
        self.sums, self.squares = torch.zeros(()), torch.zeros(())

    def add(self, maps: Tensor) -> None:
        values = maps.double()
        axes = [axis for axis in range(maps.ndim) if axis != 1]
        self.count += maps.numel() // maps.shape[1]
        self.sums = self.sums + values.sum(axes)
        self.squares = self.squares + values.square().sum(axes)

    def divergence(self, norm: nn.modules.batchnorm._BatchNorm) -> float:
        """Of these from what BatchNorm keeps: KL(seen || kept), mean over channels."""
        mean = self.sums / self.count
        var = self.squares / self.count - mean**2 + norm.eps
        assert norm.running_mean is not None
        assert norm.running_var is not None
        kept, width = norm.running_mean.double(), norm.running_var.double() + norm.eps
        ratio = var.clamp(min=norm.eps) / width
        return (0.5 * (ratio - ratio.log() - 1 + (mean - kept) ** 2 / width)).mean().item()


class _Reached(Exception):
    """The forward pass has come as far as is needed."""


def _first_norm(
    network: Network, images: Tensor, moments: _Moments
) -> nn.modules.batchnorm._BatchNorm | None:
    """Runs the network up to its first BatchNorm and adds what that sees to the moments."""
    reached: list[nn.modules.batchnorm._BatchNorm] = []

    def stop(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        moments.add(inputs[0])
        reached.append(norm)
        raise _Reached

    handles = [
        module.register_forward_pre_hook(stop)
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    try:
        if handles:
            network(images)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return reached[0] if reached else None
