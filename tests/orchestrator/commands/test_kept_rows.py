"""Rows of a list that are made once per machine and code."""

import gc
import json
from pathlib import Path

import pytest

from orchestrator.commands import kept_rows as module
from orchestrator.commands.kept_rows import kept_rows


class Maker:
    """Makes rows, and knows which."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, name: str) -> tuple[str, ...]:
        self.made.append(name)
        return name, f"row {name}"


@pytest.fixture
def make() -> Maker:
    return Maker()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(*names: str) -> list[tuple[str, ...]]:
    return [(name, f"row {name}") for name in names]


def test_ours_are_made_once_and_others_each_time(make: Maker) -> None:
    for _ in range(2):
        assert kept_rows("list", ["a", "theirs", "b"], {"a", "b"}, make) == rows("a", "theirs", "b")
    assert make.made == ["a", "theirs", "b", "theirs"]
    assert kept_rows("list", ["c", "a"], {"a", "b", "c"}, make) == rows("c", "a")
    assert kept_rows("list", ["a", "b", "c"], {"a", "b", "c"}, make) == rows("a", "b", "c")
    assert make.made[4:] == ["c"]
    assert kept_rows("other", ["a"], {"a"}, make) == rows("a")
    assert make.made[5:] == ["a"]


def test_garbage_is_looked_for_seldom_meanwhile(make: Maker) -> None:
    usual = gc.get_threshold()
    during = []

    def noting(name: str) -> tuple[str, ...]:
        during.append(gc.get_threshold()[0])
        return make(name)

    kept_rows("list", ["a"], {"a"}, noting)
    assert during[0] > usual[0]
    assert gc.get_threshold() == usual


def test_of_other_code_nothing_is_read(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "root" / "trainables"
    place.mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", place.parent)
    (place / "cost.py").write_text("FACTOR = 1\n")
    codes = {module._code()}
    kept_rows("list", ["a"], {"a"}, make)
    (place / "cost.py").write_text("FACTOR = 2\n")
    codes.add(module._code())
    kept_rows("list", ["a"], {"a"}, make)
    kept_rows("list", ["a"], {"a"}, make)
    assert make.made == ["a", "a"]
    (place / "cost.py").rename(place / "costs.py")
    codes.add(module._code())
    monkeypatch.setattr(module, "version", lambda name: "0.1")
    codes.add(module._code())
    assert len(codes) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[:-9].encode(),
        lambda text: b"[]",
        lambda text: b"\xff\xfe",
        lambda text: json.dumps(json.loads(text) | {"rows": 3}).encode(),
        lambda text: json.dumps(json.loads(text) | {"rows": {"a": "row"}}).encode(),
        lambda text: json.dumps({"rows": json.loads(text)["rows"]}).encode(),
    ],
)
def test_what_cannot_be_read_is_made_again(make: Maker, cache: Path, damage) -> None:
    kept_rows("list", ["a"], {"a"}, make)
    file = cache / "list.json"
    file.write_bytes(damage(file.read_text()))
    for _ in range(2):
        assert kept_rows("list", ["a"], {"a"}, make) == rows("a")
    assert make.made == ["a", "a"]
    assert [path.name for path in cache.iterdir()] == ["list.json"]


def test_a_folder_that_cannot_be_written_is_no_matter(make: Maker, cache: Path) -> None:
    cache.write_text("a file")
    assert kept_rows("list", ["a"], {"a"}, make) == rows("a")


def test_without_a_home_either(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module, "cache_root", nowhere)
    assert kept_rows("list", ["a"], {"a"}, make) == rows("a")
