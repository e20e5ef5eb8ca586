"""Training passes of a network, compiled once per architecture and process.

A small network at batch 64 to 128 keeps a GPU waiting for the launches of its kernels: there the
compiled forward and backward pass are recorded as CUDA graphs and replayed. What that gains has
not been measured yet. On a CPU only element-wise operations are fused: WRN-16-2 at batch 64 took
4 to 8 % longer than uncompiled (one thread, bf16 and fp32). Compiling takes half a minute and
more per architecture. Off by default.

TorchDynamo takes parameters as inputs of the code that it makes, so that code serves every
network of the architecture. Its cache belongs to a code object, is searched one entry after the
other and holds only a few: each architecture has a code object of its own.
"""

import logging
import types
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.engine.places import brought, settle
from trainables.errors import DeviceError, OutOfMemoryError
from trainables.failures import meaning
from trainables.models.outputs import Network, Outputs
from trainables.randomness import random_state, restore_random_state
from trainables.worker import Store, kept

log = logging.getLogger(__name__)

Forward = Callable[[Network, Tensor], Outputs]


class Architecture(NamedTuple):
    """What one compiled pass is made for.

    Attributes:
        structure: of the network's blueprint.
        classes: number of logits.
        batch: shape of the images, ``(B, C, H, W)``.
        device: where it computes.
        autocast: the dtype of its arithmetic under autocast; None outside.
        backend: of ``torch.compile``.
    """

    structure: Hashable
    classes: int
    batch: tuple[int, ...]
    device: torch.device
    autocast: torch.dtype | None
    backend: str | Callable[..., Any]


class CompiledNetwork:
    """A network for training steps: the same parameters and statistics, other machine code.

    The network itself stays a plain module, for everything that scores, saves or inspects it.
    Where it cannot be compiled, a warning says so once and the network is called as it is: the
    first call rehearses both passes, because code for the backward pass may be made as late as
    when it runs, and leaves no trace in the network or the random generators.

    On a GPU the outputs are overwritten by the next call, which also drops the gradients.

    Args:
        network: in training mode when it is called, on batches of one shape; its weights
            move to where those of the last one were (`trainables.engine.places`). Networks whose
            blueprints have one structure, of one number of classes and image shape, are alike;
            one that is edited needs another of these.
        backend: of ``torch.compile``.
    """

    def __init__(self, network: Network, backend: str | Callable[..., Any] = "inductor") -> None:
        self.network, self.backend = network, backend
        self.structure = network.blueprint.structure
        settle(network, _kind(network))
        self._forward: Forward | None = None

    def __call__(self, images: Tensor) -> Outputs:
        """Outputs for normalised images ``[B, C, H, W]``.

        Raises:
            torch.OutOfMemoryError: as without compiling, since that needs no less memory.
            torch.AcceleratorError: the device is lost, whoever asks it.
        """
        if images.is_cuda:
            # Both lie in memory of the graphs that are about to run again.
            self.network.zero_grad(set_to_none=True)
            torch.compiler.cudagraph_mark_step_begin()
            # PyTorch 2.11 takes it that the backward pass finds them where they were recorded.
            images = brought(images, (self._architecture(images), images.stride()))
        if self._forward is None:
            self._forward = self._rehearsed(images)
        return self._forward(self.network, images)

    def _rehearsed(self, images: Tensor) -> Forward:
        """The compiled pass if it works, or the plain one."""
        architecture = self._architecture(images)
        if images.is_meta or architecture in _FAILED:
            return _plain
        forward = _compiled(architecture)
        try:
            _rehearse(forward, self.network, images)
        except Exception as error:  # compilers fail in many ways, and none may cost the trial
            if isinstance(meaning(error), OutOfMemoryError | DeviceError):
                raise
            cause = getattr(error, "inner_exception", error)  # of TorchDynamo's own exceptions
            reason = (str(cause).splitlines() or [""])[0]
            _FAILED[architecture] = reason
            log.warning(
                "%s cannot be compiled (%s: %s); it trains as it is",
                self.network.blueprint.label,
                type(cause).__name__,
                reason,
            )
            return _plain
        if images.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        return forward

    def _architecture(self, images: Tensor) -> Architecture:
        kind = images.device.type
        mixed = not images.is_meta and torch.is_autocast_enabled(kind)
        return Architecture(
            self.structure,
            self.network.classifier.out_features,
            tuple(images.shape),
            images.device,
            torch.get_autocast_dtype(kind) if mixed else None,
            self.backend,
        )


def _kind(network: Network) -> tuple[Any, ...]:
    """What networks that can take each other's place have in common."""
    tensors = [*network.parameters(), *network.buffers()]
    return network.blueprint.structure, tuple(
        (t.shape, t.stride(), t.dtype, t.device) for t in tensors
    )


_FAILED: Store[str] = Store("passes that cannot be compiled")


def _plain(network: Network, images: Tensor) -> Outputs:
    outputs: Outputs = network(images)
    return outputs


@kept("compiled passes", entries=64)
def _compiled(architecture: Architecture) -> Forward:
    """`_plain` with a code object of its own, which is compiled when it is first called."""
    options: dict[str, Any] | None = None
    if architecture.backend == "inductor":
        options = {
            "fallback_random": True,  # dropout draws the masks that it draws uncompiled
            "triton.cudagraphs": architecture.device.type == "cuda",  # mode reduce-overhead
        }
    own = types.FunctionType(_plain.__code__.replace(), globals())
    # In one graph, or part of it would have run before what cannot be compiled is met.
    compiled: Forward = torch.compile(
        own, fullgraph=True, dynamic=False, backend=architecture.backend, options=options
    )
    return compiled


def _rehearse(forward: Forward, network: Network, images: Tensor) -> None:
    """Runs both passes for nothing."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    generators = random_state(images.device)
    try:
        outputs = forward(network, images)
        maps = [outputs.logits, outputs.embedding, *outputs.stages, *outputs.shortcuts]
        total = sum((found.float().sum() for found in maps), torch.zeros((), device=images.device))
        torch.autograd.grad(total, [*network.parameters()], allow_unused=True)
    finally:
        restore_random_state(generators, images.device)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
