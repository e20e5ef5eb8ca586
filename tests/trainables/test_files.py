"""Folders: atomic writes, listing, and the errors a user meets, locally and in an object store."""

import errno
import os
import pickle
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from trainables.errors import UserError
from trainables.files import Folder, open_folder


@pytest.fixture(params=["local", "file uri", "remote"])
def folder(request, tmp_path):
    if request.param == "local":
        return open_folder(tmp_path / "results")
    if request.param == "file uri":
        return open_folder((tmp_path / "results").as_uri())
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    return Folder(memory, f"bucket-{uuid.uuid4().hex}/results", is_local=False)


def test_files_come_back_as_written(folder):
    assert folder.names() == []
    folder.write("b.parquet", b"one")
    folder.write("a.parquet", bytes(range(256)) * 1000)
    folder.write("b.parquet", b"two")
    folder.write("study.yaml", b"fixed: {}")
    assert folder.read("a.parquet") == bytes(range(256)) * 1000
    assert folder.read("b.parquet") == b"two"
    assert folder.names(".parquet") == ["a.parquet", "b.parquet"]
    assert folder.names() == ["a.parquet", "b.parquet", "study.yaml"]
    folder.delete("a.parquet")
    folder.delete("a.parquet")
    assert not folder.exists("a.parquet")
    assert folder.exists("b.parquet")


def test_uploads_that_broke_off_are_not_there():
    """A name that waits for its content (Azure), and the hidden name before a rename."""
    memory = MemoryFileSystem()
    remote = Folder(fs.PyFileSystem(fs.FSSpecHandler(memory)), f"b-{uuid.uuid4().hex}", False)
    remote.write("whole.parquet", b"rows")
    memory.pipe_file(f"/{remote.path}/waits.parquet", b"")
    memory.pipe_file(f"/{remote.path}/.part.parquet.8a1f", b"PAR1 half")
    assert remote.names() == ["whole.parquet"]
    assert not remote.exists("waits.parquet")
    assert remote.exists("whole.parquet")
    remote.write("waits.parquet", b"rows")  # tried again
    assert remote.names() == ["waits.parquet", "whole.parquet"]


def test_subfolders_and_missing_files(folder):
    (folder / "sweep" / "trials").write("x", b"1")
    folder.write("file", b"")
    assert folder.folders() == ["sweep"]
    assert (folder / "sweep").names() == []
    assert (folder / "sweep/trials").read("x") == b"1"
    with pytest.raises(FileNotFoundError):
        folder.read("absent")


def test_pickled_folder_writes_to_the_same_place(folder):
    pickle.loads(pickle.dumps(folder)).write("weights", b"w")
    assert folder.read("weights") == b"w"


def test_check_writable_leaves_nothing(folder):
    folder.check_writable()
    infos = folder.filesystem.get_file_info(fs.FileSelector(folder.path, allow_not_found=True))
    assert infos == []


def test_local_folder_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = open_folder("results")
    monkeypatch.chdir("/")
    folder.write("x", b"")
    assert (tmp_path / "results" / "x").exists()


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    below = open_folder(tmp_path / "file" / "results")
    with pytest.raises(UserError, match=r"results folder '.*/file/results' is not writable: "):
        below.check_writable()


def test_file_as_folder_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"--results '.*file' is a file"):
        open_folder(tmp_path / "file")


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", "file:///a b", "hdfs://nowhere:1/x"])
def test_uri_that_cannot_be_opened_is_named_in_one_line(uri):
    with pytest.raises(UserError, match=r"--results '.*' cannot be opened") as caught:
        open_folder(uri)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


FULL_DISK = """
import resource, sys
from trainables.files import open_folder
folder = open_folder(sys.argv[1])
folder.write("kept", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for name in ("kept", "new"):
    try:
        folder.write(name, b"x" * 100_000)
    except OSError:
        continue
    sys.exit("the write should have failed")
"""


def test_a_write_that_fails_halfway_leaves_the_old_file(tmp_path):
    """The file size limit stops the write after 4 kB, as a full disk does."""
    repository = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, cwd=repository)
    assert os.listdir(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"old"


def _refusing(number):
    """`os.fsync` of a mount that answers so for folders, and syncs files."""

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES])
def test_a_mount_that_syncs_no_folders(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", _refusing(number))
    folder = open_folder(tmp_path)
    folder.check_writable()
    folder.write("x", b"kept")
    assert folder.read("x") == b"kept"


def test_a_disk_that_fails_is_no_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        open_folder(tmp_path).write("x", b"x")


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [
        ("gs://anonymous@bucket/results", 15),
        ("gcs://anonymous@bucket/results?scheme=http", 15),
        ("gs://anonymous@bucket/results?retry_limit_seconds=100", 100),
    ],
)
def test_a_bucket_of_google_is_waited_for_so_long(uri, seconds):
    """Also by the workers, which get it pickled."""
    for folder in (open_folder(uri), pickle.loads(pickle.dumps(open_folder(uri)))):
        _, (options,) = folder.filesystem.__reduce__()
        assert options["retry_time_limit"].total_seconds() == seconds
        assert folder.path == "bucket/results"
