"""Code made for one network: exported, its weights frozen in, and compiled by TorchInductor.

On a CPU convolutions become oneDNN's, with BatchNorm and activations folded in. Layers of integers
(`trainables.models.int8`) become its int8 kernels by the rewriting rules for x86 that torchao
brings along. On a CPU without VNNI sums of such products may saturate in 16 bits.
"""

import copy
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models.int8 import has_int8
from trainables.models.outputs import Network
from trainables.runtimes.runtime import Answer, Runtime

_COMPILERS = {"darwin": "clang++", "win32": "cl"}
# Threads that compile would be processes of their own, and outlive the call.
_OPTIONS = {"freezing": True, "compile_threads": 1}


class Compiled(Runtime):
    """Compiles for batches of the one shape, which takes from seconds to half a minute."""

    def unavailable(self) -> str | None:
        compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
        if shutil.which(compiler) is None:
            return f"no C++ compiler ({compiler})"
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
            return "no Python.h, which compiled code needs"
        return None

    def ready(self, network: Network, images: Tensor) -> Answer:
        missing = self.unavailable()
        if missing is not None:
            raise UserError(f"runtime 'compiled': {missing}")
        on_cpu = images.device.type == "cpu"
        if has_int8(network) and not on_cpu:
            raise UserError(
                "runtime 'compiled': layers of integers are compiled for the CPU, and not for "
                f"{images.device.type}"
            )
        # A copy: constants of the code would share its memory.
        logits = _Logits(copy.deepcopy(network)).eval().requires_grad_(False)
        try:
            answer = _frozen(logits, images) if on_cpu else _compiled(logits, images)
        except Exception as error:  # exporters and compilers fail in many ways
            if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
                raise
            lines = str(getattr(error, "inner_exception", error)).strip().splitlines()
            what = lines[0] if lines else type(error).__name__
            label = network.blueprint.label
            raise UserError(f"runtime 'compiled': cannot take {label}: {what}"[:290]) from error
        return answer


class _Logits(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits


@torch.no_grad()
def _frozen(logits: _Logits, images: Tensor) -> Answer:
    """Compiled without TorchDynamo, which would compile again, and not freeze, where somebody
    calls in another mode than the first time."""
    from torchao.quantization.pt2e.inductor_passes import x86

    x86._register_quantization_weight_pack_pass()  # for graphs that are frozen; once per process
    graph: Any = torch.export.export(logits, (images,)).module(check_guards=False)
    code: Any = torch._inductor.compile(graph, [images], options=_OPTIONS)

    @torch.no_grad()
    def answer(batch: Tensor) -> Tensor:
        found: Tensor = code(batch)
        return found

    answer(images)
    return answer


def _compiled(logits: _Logits, images: Tensor) -> Answer:
    code: Any = torch.compile(logits, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def answer(batch: Tensor) -> Tensor:
        found: Tensor = code(batch)
        return found

    answer(images)
    return answer
