"""Random numbers of a learner's own, from generators of which a process has but one each.

Networks and losses draw wherever they like from torch's, Python's and NumPy's generators, those of
other libraries included. So a learner that shares its process keeps the state in which it left
them, and finds it again.
"""

import random
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor


class RandomState(NamedTuple):
    """The state of all generators: torch's of the CPU and of a GPU, Python's, NumPy's."""

    torch: Tensor
    cuda: Tensor | None
    python: tuple[Any, ...]
    numpy: Any


def seed_everything(seed: int) -> None:
    """Seeds torch (every device), Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def random_state(device: torch.device, *, numpy: bool = True) -> RandomState:
    """The state of all generators.

    Args:
        device: whose generator is read beside the CPU's.
        numpy: whether NumPy's is read, which takes four times as long as all others.
    """
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    found = np.random.get_state() if numpy else None
    return RandomState(torch.get_rng_state(), cuda, random.getstate(), found)


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """Sets those generators to what `random_state` returned that it has read."""
    torch.set_rng_state(state.torch)
    if state.cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state.cuda, device)
    random.setstate(state.python)
    if state.numpy is not None:
        np.random.set_state(state.numpy)


class Randomness:
    """A context in which the process's generators are those of one learner.

    They go on where the last such context left them; outside, they stand as if nothing had been
    drawn inside. Within one of the same learner, another context has nothing to do.

    NumPy's functions are handed a generator of the learner's own. NumPy makes normal numbers in
    pairs: the second of a pair is dropped at the beginning of every context, within another one as
    well, so that numbers do not depend on who else draws between two steps.

    Args:
        seed: decides all that is drawn.
        device: whose generator counts beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._own: RandomState | None = None
        self._numpy = np.random.MT19937()
        self._depth = 0
        with self:
            seed_everything(seed)

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._outside = random_state(self.device, numpy=False)
            self._numpy_outside = mtrand.get_bit_generator()
            if self._own is not None:
                restore_random_state(self._own, self.device)
        mtrand.set_bit_generator(self._numpy)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._own = random_state(self.device, numpy=False)
            restore_random_state(self._outside, self.device)
            mtrand.set_bit_generator(self._numpy_outside)

    def state_dict(self) -> dict[str, Any]:
        """What is drawn next, readable with ``torch.load(weights_only=True)``."""
        with self:
            state = random_state(self.device)
        kind, keys, *rest = state.numpy
        numpy = (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest)
        return state._replace(numpy=numpy)._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draws next what the other would have drawn."""
        version, internal, gauss = state["python"]
        kind, keys, *rest = state["numpy"]
        cuda = state["cuda"]
        own = RandomState(
            state["torch"].cpu(),
            None if cuda is None else cuda.cpu(),
            (version, tuple(internal), gauss),
            (kind, keys.numpy().astype(np.uint32), *rest),
        )
        with self:
            restore_random_state(own, self.device)
