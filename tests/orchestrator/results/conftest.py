"""Where results may lie."""

import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from trainables.files import Folder


@pytest.fixture(params=["local", "remote"])
def results(request, tmp_path):
    if request.param == "local":
        return tmp_path / "results"
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    return Folder(memory, f"bucket-{uuid.uuid4().hex}", is_local=False)
