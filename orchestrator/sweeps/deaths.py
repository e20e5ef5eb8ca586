"""How workers end without having raised an error: what a row says of it."""

DEATH = "the worker process died; see Ray's logs of its node"
NO_MEMORY = "the worker was ended, as its node was out of memory (fewer at once: --max-concurrent)"
"""Ray ends any of a node's workers, whoever takes the memory."""
NO_START = "the worker could not start: "
"""Followed by why: for example, a package is missing on the node."""


def how_it_died(error: BaseException) -> str | None:
    """How the worker behind one of Ray's errors ended; None where it lives, and raised the error.

    Args:
        error: what a call to an actor raised.
    """
    from ray import exceptions

    if isinstance(error, exceptions.OutOfMemoryError):
        return NO_MEMORY
    if isinstance(error, exceptions.RayActorError) and error.actor_init_failed:
        return NO_START + str(error).strip().rpartition("\n")[2].strip()
    dead = exceptions.RayActorError, exceptions.NodeDiedError, exceptions.WorkerCrashedError
    return DEATH if isinstance(error, dead) else None
