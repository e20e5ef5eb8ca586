"""What an exception in a training means to whoever runs it.

Libraries report a full memory and a broken device in many types and words. Here they become
`OutOfMemoryError` and `DeviceError`, which decide what a sweep does next.
"""

import errno
import functools
import re
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

from trainables.errors import DeviceError, OutOfMemoryError, TrainingFailed, UserError

P = ParamSpec("P")
R = TypeVar("R")

_MACHINES = (RuntimeError, MemoryError, OSError, SystemError)
"""What a library raises where the machine is at fault."""

_FULL = re.compile(
    r"out[ _]of[ _]memory|cudaErrorMemoryAllocation|STATUS_ALLOC_FAILED|"
    r"STATUS_INSUFFICIENT_RESOURCES|(can't|cannot|unable to|failed to) allocate|"
    r"not enough memory|bad_alloc",
    re.IGNORECASE,
)
_LOST = re.compile(
    r"(CUDA|HIP|cuDNN|cuBLAS|cuFFT|cuSOLVER|cuSPARSE|NCCL|NVML|NVRTC)(Lt)?"
    r"( driver| internal| unknown)? error|cudaError|error from cuda|(CUDA|NVRTC)_ERROR_|"
    r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_|CUFFT_|Triton Error \[|device-side assert|"
    r"illegal (memory access|instruction|address)|misaligned address|"
    r"launch (failure|failed|timed out)|uncorrectable (ECC|NVLink)|ECC error|"
    r"fallen off the bus|CUDA[- ]capable device|No CUDA GPUs are available",
    re.IGNORECASE,
)
_ON_HOST = re.compile(r"DefaultCPUAllocator|bad_alloc|Cannot allocate memory|Unable to allocate")
_ONE_IMAGE = re.compile(r"Expected more than 1 (value per channel|spatial element) when training")
_LONGEST = 140


def explained(work: Callable[P, R]) -> Callable[P, R]:
    """A function that raises what ``work`` raises, as the `meaning` of it."""

    @functools.wraps(work)
    def telling(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            meant = meaning(error)
            if meant is error:
                raise
            raise meant from error

    return telling


def meaning(error: Exception) -> Exception:
    """The `TrainingFailed` that an exception amounts to; itself where it is none.

    Args:
        error: whatever a training raised; what it was raised from counts, too, since compilers
            wrap what they meet.
    """
    if isinstance(error, UserError | TrainingFailed):
        return error
    for link in _chain(error):
        if is_out_of_memory(link):
            return _full(link)
        if is_device_error(link):
            return DeviceError(
                f"{_line(link)}; the GPU was lost to this process: if a trial of its own meets it "
                "too, CUDA_LAUNCH_BLOCKING=1 and --debug show where"
            )
        if _ONE_IMAGE.search(str(link)):
            return TrainingFailed(
                "a step of one image cannot train BatchNorm where its maps are 1x1; "
                "expected batch_size >= 2, and as many training images"
            )
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says that the memory of the GPU or of the host is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, _MACHINES) and bool(_FULL.search(str(error)))


def is_device_error(error: BaseException) -> bool:
    """Whether a library says that the device, or the process's hold on it, is broken.

    After such an error every later call fails as well, in this process and only there.
    """
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, _MACHINES) and bool(_LOST.search(str(error)))


def _full(error: BaseException) -> OutOfMemoryError:
    host = isinstance(error, MemoryError | OSError) or _ON_HOST.search(str(error))
    return OutOfMemoryError(
        f"the memory of the {'host' if host else 'GPU'} is full ({_line(error)}); "
        "a smaller batch_size, student or image_size takes less"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those behind it, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = getattr(link, "inner_exception", None)  # of TorchDynamo's own exceptions
        waiting += [inner, link.__cause__, link.__context__]


def _line(error: BaseException) -> str:
    """The beginning of an exception's first line."""
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    return first if len(first) <= _LONGEST else first[: _LONGEST - 3] + "..."
