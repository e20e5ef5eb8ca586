"""To the device without waiting for it."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device, which need not be there yet when this returns.

    What is asked of the device later finds them; the host must not read them. A GPU copies on its
    own only from pinned memory, so values go there first.

    Args:
        values: any tensor.
        device: where to.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
