"""Ray: a cluster of one's own on this machine, or one that is there."""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from orchestrator.sweeps.address import address_of
from orchestrator.sweeps.ending import descendants, kill
from orchestrator.sweeps.processes import deaf_children, end_at_once, survived_by_none
from orchestrator.sweeps.surroundings import cores, paths_of_workers, thread_counts
from trainables.errors import UserError

log = logging.getLogger(__name__)

LONGEST_SOCKET = 107
SOCKET_LENGTH = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.10")

WORKER_ENVIRONMENT = {
    # glibc keeps freed pages instead of giving them back to the kernel after every step.
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
}
"""Where the user has not set them."""

RAY_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The store is the state of a sweep; Tune's snapshots are not read.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_MAX_LEN_IDENTIFIER": "130",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Signals are answered by `orchestrator.sweeps.ending`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A trial that asks for no GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Under `uv run` Ray would send the working folder to the workers.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

TUNING = ("TUNE_", "RAY_AIR_", "RAY_TRAIN_", "RAY_STORAGE", "AIR_VERBOSITY")
"""How variables begin that are meant for other programs on Ray; some of them end Tune."""

FOREIGN = ("RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_GCS_SERVER_PORT", "RAY_NAMESPACE")
"""Variables of a site's cluster that a cluster of our own would take for its own."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray for the length of a block.

    Args:
        address: ``auto`` or ``HOST:PORT`` of a running cluster; None starts one on this machine
            and ends it with the block.

    Raises:
        UserError: no cluster answers at ``address``, or Ray does not start here.
    """
    for name in [name for name in os.environ if name.startswith(TUNING)]:
        del os.environ[name]
    os.environ.update(RAY_ENVIRONMENT)
    worker = thread_counts(1) | _own(WORKER_ENVIRONMENT) | _ours("RAY_CHDIR_TO_TRIAL_DIR")
    worker |= _ours("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO") | {"PYTHONSAFEPATH": "1"}
    if address is None:
        _start(worker)
    else:
        _join(address, worker)
    import ray

    try:
        with nullcontext() if address else survived_by_none():
            yield
    finally:
        end_at_once()
        ray.shutdown()


def _start(worker: dict[str, str]) -> None:
    """A cluster of one's own. On a busy machine Ray may give up on its own processes: then again.

    Raises:
        UserError: it does not start, twice.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # A token of this run alone, in this process's environment: nothing is left on disk.
        # Once imported, Ray has read its mode and looks after the token itself.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for name in FOREIGN:
        os.environ.pop(name, None)
    # The head of this run alone never comes back; nobody has to wait a minute for it.
    os.environ |= {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
    folder = _session_folder()
    import ray

    for last in (False, True):
        before = descendants(os.getpid())
        try:
            with deaf_children():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    num_cpus=cores(),
                    _temp_dir=folder,
                    **_options(worker),
                )
            return
        except Exception as error:  # Ray raises errors of many kinds, some of them just that
            ray.shutdown()
            kill([pid for pid in descendants(os.getpid()) if pid not in before])
            if last:
                raise UserError(
                    f"Ray does not start on this machine: {_line(error)[:150]}; its logs: "
                    f"{folder}/session_latest/logs"
                ) from error
            log.debug("Ray did not start in time; once more", exc_info=True)


def _join(address: str, worker: dict[str, str]) -> None:
    """A cluster that runs already."""
    # Read when Ray is imported. Somebody who answers as a head was there a moment ago.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", "15")
    where = address_of(address)
    import ray

    try:
        with _hushed():
            ray.init(address=where, **_options(worker))
    except Exception as error:  # Ray raises errors of many kinds, some of them its own
        raise UserError(f"--address {address}: {_refusal(error)}") from error


def _refusal(error: Exception) -> str:
    text = " ".join(str(error.__cause__ or error).split())
    if "AuthToken" in text or "Unauthenticated" in text or "authentication token" in text:
        return (
            "this Ray cluster wants a token, and ours is missing or wrong; "
            "set RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if "matched Raylet" in text or "find any Raylet" in text or "No node info" in text:
        return "this machine is no node of that cluster; run kdsweep on one of its nodes"
    if "Unimplemented" in text or "UNIMPLEMENTED" in text:
        return "something listens there, but it is no Ray head"
    return f"no Ray cluster answers ({text[:150]})"


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps from stderr what Ray's libraries write there by themselves."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _options(worker: dict[str, str]) -> dict[str, Any]:
    from ray.job_config import JobConfig

    class Apart(JobConfig):
        """A job whose workers import from their installation, and from ours where that is
        another one. Ray would put the working folder and the script's before everything else,
        but for jobs that bring a folder of their own."""

        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "runtime_env": {"env_vars": worker},
        "job_config": Apart(_py_driver_sys_path=paths_of_workers()),
    }


def _session_folder() -> str:
    """Where Ray keeps its session: the first usable folder whose name is short enough.

    Raises:
        UserError: there is none.
    """
    wanted = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    folders = [os.path.abspath(os.path.expanduser(folder)) for folder in wanted if folder]
    fallbacks = ["/tmp", f"/tmp/kdsweep-{os.getuid()}", "/var/tmp", "/dev/shm"]
    for folder in (*folders, *fallbacks):
        session = os.path.join(folder, "ray")
        if len(os.fsencode(session)) + SOCKET_LENGTH <= LONGEST_SOCKET and _is_usable(session):
            if folders and folder != folders[0]:
                log.warning("%s is no place for Ray's sockets; they are in %s", folders[0], session)
            return session
    raise UserError(
        "TMPDIR: Ray needs a folder that can be written, with a name of at most "
        f"{LONGEST_SOCKET - SOCKET_LENGTH - len('/ray')} letters; set RAY_TMPDIR to one"
    )


def _is_usable(folder: str) -> bool:
    probe = os.path.join(folder, f".kdsweep-{os.getpid()}")
    try:
        os.makedirs(folder, exist_ok=True)
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError:
        return False
    return True


def _ours(name: str) -> dict[str, str]:
    return {name: RAY_ENVIRONMENT[name]}


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
