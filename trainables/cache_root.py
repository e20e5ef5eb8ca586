"""Where this machine keeps what it can make again."""

import os
from pathlib import Path


def cache_root() -> Path:
    """``$KDSWEEP_CACHE``, by default ``~/.cache/kdsweep``: what a machine can make again.

    Raises:
        RuntimeError: neither ``KDSWEEP_CACHE`` nor a home directory is known.
    """
    configured = os.environ.get("KDSWEEP_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "kdsweep"
