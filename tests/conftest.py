"""What every test shares: the real data where it is present, a thread and a core per process."""

import gc
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Other tests have the other cores. A teacher's threads wait for one another, and would wait for
    # those tests, too: an epoch takes 0.3 s, and 12 s beside one busy process.
    _number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[_number % len(_cores)]})

# Most of what a test makes is gone before the next; to look for cycles so often finds little.
gc.set_threshold(50_000, 20, 100)

# Ray's workers are polite to other programs. Here these are tests, for which sweeps would wait.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (it is Ray's spelling)

# One token for the Ray that tests share and for those that they start: a process reads it once.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

CLUSTER = """
import sys
import ray
from orchestrator.sweeps import cluster

cluster.cores = lambda: 2  # trials at once, also on one core
with cluster.connected(None):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end, workers have short ones to share."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What was imported stays; no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Else libraries find, at the end of the process, that much of theirs is still there."""
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """What the tests of a file imported and keep, no later collection of garbage looks at again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """What a test draws without a seed does not depend on the tests before it in its process.

    One in a thousand networks has a ReLU so near to 0 that float32 and float64 disagree about it.
    """
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds what an earlier run decoded, timed or looked up.

    What this run decodes, all its processes share: they lock it as those of a sweep do.
    """
    cache = tmp_path_factory.mktemp("cache")
    os.environ["KDSWEEP_CACHE"] = str(cache)
    if "PYTEST_XDIST_WORKER" in os.environ:
        decoded = tmp_path_factory.getbasetemp().parent / "decoded"
        decoded.mkdir(exist_ok=True)
        (cache / "data").symlink_to(decoded)


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which the workers of the shared Ray import, as if it were installed."""
    return tmp_path_factory.mktemp("sites")


@pytest.fixture(scope="session")
def cluster(sites: Path) -> Iterator[list[str]]:
    """The option of a sweep that joins a Ray that runs already: to start one takes seconds.

    Its workers have the environment of this moment. A sweep that needs another starts its own.
    """
    paths = os.pathsep.join([str(sites), str(Path(__file__).parents[1])])
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield ["--address", process.stdout.readline().strip()]
        process.communicate()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with CIFAR-10 and teachers; tests that need it are skipped where it is absent."""
    folder = Path(
        os.environ.get("KDSWEEP_DATA") or Path(__file__).parents[2] / "shared" / "data"
    ).resolve()
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"needs CIFAR-10 in {folder} (set KDSWEEP_DATA)")
    return folder
