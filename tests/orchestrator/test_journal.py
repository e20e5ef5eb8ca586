"""The journal: what optuna-dashboard reads of it, and that nobody else does."""

import os
import uuid

import optuna
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from pyarrow import fs

from orchestrator.sweeps import journal as journals
from orchestrator.sweeps.journal import NAME, Journal
from trainables.files import Folder, open_folder


@pytest.fixture
def bucket():
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    return Folder(memory, f"bucket-{uuid.uuid4().hex}/s", is_local=False)


def study(journal):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=JournalStorage(journal), study_name="s")


def add(opened, count):
    """Asks and tells ``count`` trials."""
    for _ in range(count):
        trial = opened.ask()
        trial.suggest_float("x", 0, 1)
        opened.tell(trial, 1.0)


def shown(path):
    """The trials that optuna-dashboard would find in a file."""
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


def test_the_file_is_what_optuna_reads(tmp_path):
    journal = Journal(open_folder(tmp_path))
    opened = study(journal)
    add(opened, 2)
    waiting = opened.ask()
    waiting.set_user_attr("trial_ids", ["s-00002", "ä"])
    journal.keep()
    assert shown(tmp_path / NAME).trials == opened.trials


@pytest.mark.parametrize("before", [b"", b"\0" * 100 + b"\n{", b'{"op_code":0,"worker_id":"x"'])
def test_whatever_was_there_is_written_over(tmp_path, before):
    (tmp_path / NAME).write_bytes(before)
    journal = Journal(open_folder(tmp_path))
    add(study(journal), 1)
    journal.keep()
    assert len(shown(tmp_path / NAME).trials) == 1


def test_a_file_that_cannot_be_written_is_said_once_and_nothing_stops(tmp_path, caplog):
    (tmp_path / NAME).mkdir()
    journal = Journal(open_folder(tmp_path))
    opened = study(journal)
    for _ in range(3):
        add(opened, 1)
        journal.keep()
    assert len(opened.trials) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{tmp_path}/{NAME} cannot be written" in caplog.text
    assert os.listdir(tmp_path) == [NAME]


def test_it_is_written_now_and_then_only(tmp_path, monkeypatch):
    journal = Journal(open_folder(tmp_path))
    opened = study(journal)
    add(opened, 20)
    assert not (tmp_path / NAME).exists()
    monkeypatch.setattr(journals, "KEEP_SECONDS", 0.0)
    add(opened, 1)
    assert len(shown(tmp_path / NAME).trials) == 21


def test_a_bucket_has_one_too(bucket, tmp_path):
    journal = Journal(bucket)
    add(study(journal), 2)
    journal.keep()
    (tmp_path / NAME).write_bytes(bucket.read(NAME))
    assert len(shown(tmp_path / NAME).trials) == 2
