"""Which runtime a network is timed with where nobody asks for one."""

from trainables.models.outputs import Network


def runtime_for(network: Network) -> str:
    """The name of the runtime that ``latency_ms`` is of."""
    return "eager"
