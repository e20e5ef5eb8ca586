"""Under which conditions a benchmark's figures came about, for its JSON file."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from trainables.version import versions


def conditions(device: torch.device) -> dict[str, Any]:
    """``command``, ``machine`` with its load before the benchmark, and ``versions``.

    Args:
        device: on which it computes.
    """
    cuda = device.type == "cuda"
    return {
        "command": " ".join(
            ["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
        ),
        "machine": {
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name(device) if cuda else None,
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": versions(),
    }
