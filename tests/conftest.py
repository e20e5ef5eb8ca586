"""What every test shares: the real data where it is present, one thread per process."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds what an earlier run decoded, timed or looked up."""
    os.environ["KDSWEEP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with CIFAR-10 and teachers; tests that need it are skipped where it is absent."""
    folder = Path(
        os.environ.get("KDSWEEP_DATA") or Path(__file__).parents[2] / "shared" / "data"
    ).resolve()
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"needs CIFAR-10 in {folder} (set KDSWEEP_DATA)")
    return folder
