"""What a new sweep may be called."""

import pytest

from orchestrator.results.store import Store
from orchestrator.sweeps.names import check_free, free_name
from trainables.errors import UserError


@pytest.fixture
def results(tmp_path) -> str:
    folder = tmp_path / "results"
    Store(folder, "digits").save_study("dataset: digits\n")
    (folder / "teachers").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    (folder / "file").write_text("mine")
    (folder / "begun").mkdir()
    (folder / "begun" / ".lock").write_text("")
    return str(folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "sweep name ''"),
        ("a b", "sweep name 'a b'"),
        ("a/b", "sweep name 'a/b'"),
        ("..", "sweep name '..'"),
        (".hidden", "sweep name '.hidden'"),
        ("-x", "sweep name '-x'"),
        ("größe", "sweep name 'größe'"),
        ("a\n", "sweep name 'a\n'"),
        ("n" * 300, "has 300 characters; expected at most 100"),
        ("n" * 150, "has 150 characters; expected at most 100"),
        ("teachers", "the teachers are kept in that folder"),
        ("digits", "there is such a sweep"),
        ("notes", "is there already and is no sweep"),
        ("file", "is there already and is no sweep"),
    ],
)
def test_names_that_cannot_be_had(results, name, expected):
    with pytest.raises(UserError) as caught:
        check_free(results, name)
    assert expected in str(caught.value)
    assert len(str(caught.value).replace(results, "R")) < 300


def test_names_that_can(results):
    for name in ("a", "A.b_c-1", "n" * 100, "begun"):  # where nothing but a lock was left
        check_free(results, name)


def test_the_first_free_name(results, tmp_path):
    assert free_name(results, "new") == "new"
    assert free_name(results, "digits") == "digits-2"
    assert free_name(results, "notes") == "notes-2"
    assert free_name(results, "file") == "file-2"
    assert free_name(results, "teachers") == "teachers-2"
    assert free_name(str(tmp_path / "nowhere"), "digits") == "digits"
