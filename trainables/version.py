"""Which code and which libraries made a result."""

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path


@functools.cache
def code_version() -> str:
    """The package's version and a hash of the source files that train: ``0.1.0+1a2b3c4d``."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return f"{importlib.metadata.version('kdsweep')}+{digest.hexdigest()[:8]}"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result may depend on."""
    names = ("kdsweep", "torch", "torchvision", "ray", "optuna", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}
