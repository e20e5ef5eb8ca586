"""Which runtime a network is timed with where nobody asks for one."""

from trainables.models.int8 import has_int8
from trainables.models.outputs import Network
from trainables.runtimes.registry import RUNTIMES

EAGER = "eager"
OF_INTEGERS = ("compiled", "onnx")
"""What computes layers of integers in integers, the first choice in front."""


def runtime_for(network: Network) -> str:
    """The name of the runtime that ``latency_ms`` is of.

    ``eager``; for a network with layers of integers on the CPU the first that computes in
    integers here. On a GPU nothing does: ``eager``, whose time is that of the float network and
    the rounding.

    Args:
        network: where it is to be timed.
    """
    if not has_int8(network) or next(network.buffers()).device.type != "cpu":
        return EAGER
    for name in OF_INTEGERS:
        if name in RUNTIMES and RUNTIMES[name]().unavailable() is None:
            return name
    return EAGER
