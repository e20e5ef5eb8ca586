"""No limit on the cache but the usual one."""

import pytest


@pytest.fixture(autouse=True)
def _default_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDSWEEP_CACHE_GB", raising=False)
