"""Ray: a cluster of one's own on this machine, or one that is there."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainables.errors import UserError

WORKER_ENVIRONMENT = {
    # glibc keeps freed pages instead of giving them back to the kernel after every step.
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A trial that asks for no GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}

DRIVER_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The store and Optuna's journal are the state of a sweep; Tune's snapshots are not read.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_MAX_LEN_IDENTIFIER": "130",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray for the length of a block.

    Args:
        address: ``auto`` or ``HOST:PORT`` of a running cluster; None starts one on this machine
            and ends it with the block.

    Raises:
        UserError: no cluster answers at ``address``.
    """
    os.environ.update(_own(DRIVER_ENVIRONMENT))
    local = address is None
    if local and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # A token of this run alone, in this process's environment: nothing is left on disk.
        # Once imported, Ray has read its mode and looks after the token itself.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    options: dict[str, Any] = {
        "address": "local" if local else address,
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "runtime_env": {"env_vars": _own(WORKER_ENVIRONMENT)},
    }
    if local:
        options |= {"include_dashboard": False, "num_cpus": os.cpu_count()}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if local:
            raise
        raise UserError(
            f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]})"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _own(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables, but those that the user has set as the user has set them."""
    return {key: os.environ.get(key, value) for key, value in variables.items()}


def slots(cpus: float, gpus: float) -> int:
    """How many trials the cluster has room for at once."""
    import ray

    total = ray.cluster_resources()
    room = [total.get("CPU", 1.0) / cpus] + ([total.get("GPU", 0.0) / gpus] if gpus else [])
    return max(1, int(min(room) + 1e-9))


def read_share(text: str) -> float | None:
    """The GPUs per trial that a user asks for; None for ``auto``.

    Raises:
        UserError: neither ``auto``, nor a fraction, nor a whole number.
    """
    if text == "auto":
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1 and not (share > 1 and share.is_integer()):
        raise UserError(
            f"--gpus-per-trial: expected auto, a fraction, or a whole number, got {text!r}"
        )
    return share


def gpu_share(requested: float | None) -> float:
    """The GPUs that a trial asks for; without a request one, where there are any.

    Raises:
        UserError: more than any node of the cluster has.
    """
    there = largest_node("GPU")
    if requested is None:
        return 1.0 if there else 0.0
    if requested > there:
        raise UserError(f"--gpus-per-trial {requested:g}: the largest node has {there:g} GPUs")
    return requested


def largest_node(resource: str) -> float:
    """How much of a resource (``CPU``, ``GPU``) the node has that has most of it."""
    import ray

    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return max((float(node.get(resource, 0.0)) for node in nodes), default=0.0)
