"""What looks at every operation of a computation."""

from torch.utils._python_dispatch import TorchDispatchMode


class Uncompiled(TorchDispatchMode):
    """A mode under which nothing is compiled: to keep the compiler out costs at every operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
