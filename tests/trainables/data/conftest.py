"""A cache of its own for every test, and small image files."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import sources
from trainables.data.dataset import Dataset


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache folder of this test; KDSWEEP_DATA is not set."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KDSWEEP_CACHE", str(folder))
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    return folder


@pytest.fixture
def load_again() -> Callable[..., Dataset]:
    """`load_dataset` as a new process would call it: nothing is remembered."""

    def load(*args: object, **kwargs: object) -> Dataset:
        sources._load.cache_clear()
        return sources.load_dataset(*args, **kwargs)  # type: ignore[arg-type]

    return load


@pytest.fixture(scope="session")
def cifar10_cache(cache_of_this_run: None) -> Path:
    """The cache that all tests of the whole, undamaged CIFAR-10 share: it is decoded once."""
    return Path(os.environ["KDSWEEP_CACHE"])


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    """Encodes uint8 ``[H, W, 3]`` or ``[H, W]``."""

    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return buffer.getvalue()

    return encode
