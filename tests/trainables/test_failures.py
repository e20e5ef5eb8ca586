"""What exceptions of a training mean: a full memory, a lost device, a mistake, or a fault."""

import errno
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from trainables.errors import (
    DeviceError,
    Diverged,
    OutOfMemoryError,
    TrainingFailed,
    UserError,
)
from trainables.failures import explained, meaning

CUDA_OOM = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 2.19 MiB is free. Process 1 has 79.10 GiB memory in use. Of the allocated memory ..."
)
NOTES = "\nCUDA kernel errors might be asynchronously reported at some other API call\n"
CALL = " when calling `cublasSgemm( handle, opa, opb, m, n, k, &alpha, a, lda, b, ldb)`"

FULL = [
    torch.OutOfMemoryError(CUDA_OOM),
    torch.cuda.OutOfMemoryError(CUDA_OOM),
    RuntimeError(CUDA_OOM),
    RuntimeError("CUDA error: out of memory" + NOTES),
    torch.AcceleratorError("CUDA error: out of memory" + NOTES),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
    RuntimeError("cudaErrorMemoryAllocation"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("nvrtc: error: NVRTC_ERROR_OUT_OF_MEMORY"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((2**50,), np.dtype(float)),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]

LOST = [
    torch.AcceleratorError("CUDA error: device-side assert triggered" + NOTES),
    RuntimeError("CUDA error: device-side assert triggered" + NOTES),
    RuntimeError("CUDA error: an illegal memory access was encountered" + NOTES),
    RuntimeError("CUDA error: an illegal instruction was encountered"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: the launch timed out and was terminated"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: uncorrectable NVLink error detected during the execution"),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED" + CALL),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initiali"),
    RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
    RuntimeError("No CUDA GPUs are available"),
]

NEITHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
    RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!"),
    AssertionError("Torch not compiled with CUDA enabled"),
    ValueError("CUDA error: out of memory"),  # no library raises such a thing as that
    OSError(errno.ENOSPC, "No space left on device"),
    KeyError("out of memory"),
    UserError("imagefolder:x: more than this machine's memory; not enough memory"),
    Diverged("the loss became nan"),
    RuntimeError(""),
]


def ids(error: Exception) -> str:
    return f"{type(error).__name__} {str(error)[:40]}"


@pytest.mark.parametrize("error", FULL, ids=ids)
def test_a_full_memory_is_recognised(error: Exception) -> None:
    found = meaning(error)
    assert type(found) is OutOfMemoryError
    assert "batch_size" in str(found)
    on_host = "GPU" not in str(found)
    assert on_host == (not any(word in str(error) for word in ("CUDA", "cu", "HIP", "NVRTC")))
    assert_is_a_line(found)


@pytest.mark.parametrize("error", LOST, ids=ids)
def test_a_lost_device_is_recognised(error: Exception) -> None:
    found = meaning(error)
    assert type(found) is DeviceError
    assert str(error).splitlines()[0][:60] in str(found)
    assert_is_a_line(found)


@pytest.mark.parametrize("error", NEITHER, ids=ids)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert meaning(error) is error


@pytest.mark.parametrize("normalisation", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_step_of_one_image_is_explained(normalisation: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="Expected more than 1") as caught:
        normalisation(4).train()(torch.ones(1, 4, 1, 1))
    found = meaning(caught.value)
    assert type(found) is TrainingFailed
    assert "batch_size >= 2" in str(found)
    assert_is_a_line(found)


def test_what_a_compiler_wraps_is_seen() -> None:
    class Inductor(RuntimeError):
        inner_exception = torch.OutOfMemoryError(CUDA_OOM)

    assert type(meaning(Inductor("backend failed"))) is OutOfMemoryError
    error = RuntimeError("could not clean up")
    error.__context__ = torch.AcceleratorError("CUDA error: unspecified launch failure")
    assert type(meaning(error)) is DeviceError


def test_what_a_function_raises_is_explained_and_kept() -> None:
    cause = torch.OutOfMemoryError(CUDA_OOM)

    @explained
    def work(error: Exception) -> None:
        raise error

    with pytest.raises(OutOfMemoryError) as caught:
        work(cause)
    assert caught.value.__cause__ is cause
    again = pickle.loads(pickle.dumps(caught.value))  # on its way from a worker
    assert (type(again), str(again)) == (OutOfMemoryError, str(caught.value))
    fault = KeyError("fault")
    with pytest.raises(KeyError) as other:
        work(fault)
    assert other.value is fault


def assert_is_a_line(error: Exception) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 300
