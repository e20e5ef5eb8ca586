"""Latency: how long a runtime takes from a batch of images to their logits."""

import copy
import statistics
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch

from trainables.errors import UserError
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.models.shapes import blank_images
from trainables.runtimes.registry import RUNTIMES
from trainables.worker import Store

_BUDGET_SECONDS = 0.12
_LONG_SECONDS = 4.0
_FEWEST = 3

_MEASURED: Store["Timing"] = Store("latencies")
_ENTRIES = 256


class Timing(NamedTuple):
    """Of one batch.

    Attributes:
        median_ms: milliseconds.
        iqr_ms: the range in which the middle half of the runs lies.
    """

    median_ms: float
    iqr_ms: float


def timed(run: Callable[[], object], device: torch.device, warm_up: int, least: int) -> Timing:
    """Times calls, the device synchronised before and after each.

    Args:
        run: is called for about 0.12 s.
        device: where it computes.
        warm_up: so many calls go before and do not count.
        least: calls, but for slow ones: behind 4 s (of those that do not count, 4 s again) three
            are enough.
    """

    def seconds() -> float:
        _synchronise(device)
        start = time.perf_counter()
        run()
        _synchronise(device)
        return time.perf_counter() - start

    spent = 0.0
    for _ in range(warm_up):
        if spent < _LONG_SECONDS:
            spent += seconds()
    times: list[float] = []
    while len(times) < _FEWEST or (
        sum(times) < _LONG_SECONDS and (len(times) < least or sum(times) < _BUDGET_SECONDS)
    ):
        times.append(seconds())
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(1000 * middle, 1000 * (high - low))


def latency(
    network: Network,
    image_shape: ImageShape,
    device: torch.device | str | None = None,
    *,
    runtime: str = "eager",
    batch: int = 1,
) -> Timing:
    """Times a network under a runtime.

    On black images, in evaluation mode and without gradients. Exporting, compiling and the first
    calls, which pay for start-up, are over before the first call that counts; of these there are
    at least 20, of larger batches 7, over about 0.12 s; fewer once they take 4 s. A factor of
    latency holds between networks that were timed on the same device with the same number of
    threads.

    Args:
        network: is copied; stays where and as it is.
        image_shape: ``(C, H, W)``.
        device: where to run; None: where the network is.
        runtime: a name of `trainables.runtimes.registry.RUNTIMES`.
        batch: images in a batch.

    Raises:
        UserError: there is no such runtime, or it cannot run this network here.
    """
    images = blank_images(network, image_shape)
    where = images.device if device is None else torch.device(device)
    images = images.to(where).repeat(batch, 1, 1, 1)
    own = copy.deepcopy(network).to(where).to(memory_format=torch.contiguous_format).eval()
    made = RUNTIMES[runtime]()
    if why := made.unavailable():
        raise UserError(f"runtime '{runtime}' cannot run here: {why}")
    with torch.no_grad():
        answer = made.ready(own, images)
        return timed(lambda: answer(images), where, *((5, 20) if batch == 1 else (2, 7)))


def latency_of(
    network: Network, image_shape: ImageShape, device: str, runtime: str, batch: int
) -> Timing:
    """`latency` once per process for all networks of one blueprint, whatever their weights."""
    classes, threads = network.classifier.out_features, torch.get_num_threads()
    key: Hashable = network.blueprint, classes, image_shape, device, runtime, batch, threads
    if key not in _MEASURED:
        while len(_MEASURED) >= _ENTRIES:
            del _MEASURED[next(iter(_MEASURED))]
        _MEASURED[key] = latency(network, image_shape, device, runtime=runtime, batch=batch)
    return _MEASURED[key]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
