"""The journal: torn lines, stale locks, full disks, buckets."""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import optuna
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from orchestrator.journal import LOCK_SECONDS, NAME, Journal
from trainables.files import Folder, open_folder


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    return Folder(memory, f"bucket-{uuid.uuid4().hex}/s", is_local=False)


def study(journal):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=journal.storage(), study_name="s", load_if_exists=True)


def add(journal, count):
    """Asks and tells ``count`` trials."""
    opened = study(journal)
    for _ in range(count):
        trial = opened.ask()
        trial.suggest_float("x", 0, 1)
        opened.tell(trial, 1.0)


def values(journal):
    return [trial.value for trial in study(journal).trials]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_half_written_last_line_is_cut_off(tmp_path, cut):
    journal = Journal(open_folder(tmp_path))
    add(journal, 2)
    whole = journal.path.read_bytes()
    with journal.path.open("ab") as file:
        file.write(whole.splitlines()[-1][:cut])
    again = Journal(open_folder(tmp_path))
    assert again.path.read_bytes() == whole
    add(again, 1)
    assert values(Journal(open_folder(tmp_path))) == [1.0, 1.0, 1.0]


def test_a_last_line_of_rubbish_is_cut_off(tmp_path):
    """After a power cut a file may end in zeros."""
    journal = Journal(open_folder(tmp_path))
    add(journal, 1)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + b"\0" * 100 + b"\n" + b"\0" * 30)
    add(Journal(open_folder(tmp_path)), 1)
    assert values(Journal(open_folder(tmp_path))) == [1.0, 1.0]


def test_the_lock_of_a_killed_writer_is_broken(tmp_path):
    journal = Journal(open_folder(tmp_path))
    add(journal, 1)
    Path(f"{journal.path}.lock").touch()
    began = time.monotonic()
    add(Journal(open_folder(tmp_path)), 1)
    assert LOCK_SECONDS - 1 < time.monotonic() - began < LOCK_SECONDS + 10
    assert values(Journal(open_folder(tmp_path))) == [1.0, 1.0]


def test_a_new_sweep_begins_with_an_empty_journal(tmp_path):
    add(Journal(open_folder(tmp_path)), 2)
    assert values(Journal(open_folder(tmp_path), new=True)) == []


FULL_DISK = """
import json, resource, signal, sys, threading
import optuna
from orchestrator.journal import Journal
from trainables.files import open_folder

optuna.logging.set_verbosity(optuna.logging.WARNING)
journal = Journal(open_folder(sys.argv[1]), retry_seconds=0.05)
study = optuna.create_study(storage=journal.storage(), study_name="s", load_if_exists=True)
trial = study.ask()
size = journal.path.stat().st_size
# Room for half a line: the write stops in the middle, as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
threading.Timer(0.5, resource.setrlimit, (resource.RLIMIT_FSIZE, unlimited)).start()
trial.suggest_float("x", 0, 1)
study.tell(trial, 1.0)
"""


def test_a_full_disk_is_waited_for_and_tears_no_line(tmp_path):
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stderr
    lines = (tmp_path / NAME).read_bytes().splitlines()
    assert len([json.loads(line) for line in lines]) == len(lines)
    assert values(Journal(open_folder(tmp_path))) == [1.0]


# In a bucket


def test_a_bucket_gets_a_copy_that_another_machine_goes_on_with(bucket, tmp_path, monkeypatch):
    journal = Journal(bucket)
    add(journal, 2)
    journal.keep(now=True)
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "another machine"))
    elsewhere = Journal(bucket)
    add(elsewhere, 1)
    elsewhere.keep(now=True)
    # Back on the first machine, whose own file is older by now.
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    assert values(Journal(bucket)) == [1.0, 1.0, 1.0]


def test_what_the_bucket_does_not_have_yet_is_taken_from_the_cache(bucket):
    journal = Journal(bucket)
    add(journal, 1)
    journal.keep(now=True)
    add(journal, 1)
    assert values(Journal(bucket)) == [1.0, 1.0]


def test_a_new_sweep_in_a_bucket_ignores_a_deleted_one_of_its_name(bucket):
    add(Journal(bucket), 2)  # its bucket was emptied, the cache was not
    assert values(Journal(bucket, new=True)) == []


def test_copies_are_made_now_and_then_only(bucket):
    journal = Journal(bucket)
    add(journal, 1)
    journal.keep()
    assert not bucket.exists(NAME)
    journal.keep(now=True)
    assert bucket.read(NAME) == journal.path.read_bytes()


def test_equal_paths_of_two_stores_share_no_journal(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path))
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    other = fs.SubTreeFileSystem("/", memory)
    paths = {Journal(Folder(kind, "b/s", is_local=False)).path for kind in (memory, other)}
    assert len(paths) == 2
