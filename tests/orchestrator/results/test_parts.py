"""Parquet parts and their compaction: every row is seen once, as it was last written."""

from collections.abc import Callable
from dataclasses import dataclass, field

from short_rows import epoch, ids, trial

from orchestrator.results import parts
from orchestrator.results.store import SCHEMA_VERSION, SCHEMAS, Store
from trainables.files import Folder


def test_row_written_again_counts_once_as_last_written(results):
    store = Store(results, "sweep")
    store.add_trial(trial(0, val_acc=0.1))
    store.add_trial(trial(1, val_acc=0.2))
    store.add_trial(trial(0, val_acc=0.3))
    store.add_trial(trial(0, val_acc=0.4, attempt=2))
    for _ in range(2):
        assert ids(store) == ["s-1", "s-0", "s-0"]
        assert store.read("trials")["val_acc"].to_pylist() == [0.2, 0.3, 0.4]
        store.compact()


def test_compaction_leaves_one_file_and_the_same_rows(results):
    store = Store(results, "sweep")
    for number in range(20):
        store.add_epochs([epoch(number, 1), epoch(number, 2)])
        store.add_trial(trial(number, val_acc=number / 20))
    before = store.read("trials"), store.read("epochs")
    store.compact()
    for table in ("trials", "epochs"):
        (name,) = (store.folder / table).names()
        assert name.startswith("merged-")
    assert (store.read("trials"), store.read("epochs")) == before
    store.add_trial(trial(20))
    store.compact()
    assert ids(store) == [f"s-{number}" for number in range(21)]


def test_compaction_cut_short_doubles_nothing(tmp_path):
    """Killed between the write and the deletes: merged file and parts lie side by side."""
    store = Store(tmp_path, "sweep")
    for number in range(3):
        store.add_trial(trial(number))
    old = {name: (store.folder / "trials").read(name) for name in (store.folder / "trials").names()}
    store.compact()
    for name, data in old.items():
        (store.folder / "trials").write(name, data)
    assert ids(store) == ["s-0", "s-1", "s-2"]
    store.compact()
    assert len((store.folder / "trials").names()) == 1
    assert ids(store) == ["s-0", "s-1", "s-2"]


def test_part_that_outlives_its_compaction_is_still_the_older(tmp_path):
    store = Store(tmp_path, "sweep")
    trials = store.folder / "trials"
    store.add_trial(trial(0, val_acc=0.1))
    (name,) = trials.names()
    data = trials.read(name)
    store.add_trial(trial(0, val_acc=0.2))
    store.compact()
    trials.write(name, data)
    assert store.read("trials")["val_acc"].to_pylist() == [0.2]


@dataclass(frozen=True)
class Meanwhile(Folder):
    """A folder where something happens once, after the first listing or before the first read."""

    after_listing: Callable[[], None] | None = None
    before_read: Callable[[], None] | None = None
    stale: list[str] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)

    def names(self, suffix=""):
        if self.after_listing and "listing" not in self.happened:
            self.happened.append("listing")
            self.after_listing()
            return list(self.stale)
        return super().names(suffix)

    def read(self, name):
        if self.before_read and "read" not in self.happened:
            self.happened.append("read")
            self.before_read()
        return super().read(name)


def reader(store: Store, **events) -> parts.Parts:
    folder = store.folder / "trials"
    watched = Meanwhile(folder.filesystem, folder.path, folder.is_local, **events)
    return parts.Parts(watched, SCHEMAS["trials"], SCHEMA_VERSION, ["sweep", "trial_id", "attempt"])


def test_reader_starts_again_when_its_files_were_compacted(results):
    store = Store(results, "sweep")
    for number in range(3):
        store.add_trial(trial(number))
    table = reader(store, before_read=store.compact).read()
    assert table["trial_id"].to_pylist() == ["s-0", "s-1", "s-2"]


def test_a_row_written_anew_during_a_compaction_outlives_it(results):
    store = Store(results, "sweep")
    for number in range(2):
        store.add_trial(trial(number, val_acc=0.1))

    def anew():
        store.add_trial(trial(0, val_acc=0.9))

    reader(store, before_read=anew).compact()
    found = {row["trial_id"]: row["val_acc"] for row in store.read("trials").to_pylist()}
    assert found == {"s-0": 0.9, "s-1": 0.1}


def test_reader_starts_again_when_a_compaction_overtook_its_listing(results):
    """The listing misses a part that was deleted and the merged file that has its rows."""
    store = Store(results, "sweep")
    folder = store.folder / "trials"
    for number in range(3):
        store.add_trial(trial(number))
    kept = {name: folder.read(name) for name in folder.names()[1:]}

    def compact_up_to_the_first_delete():
        store.compact()
        for name, data in kept.items():
            folder.write(name, data)

    table = reader(store, after_listing=compact_up_to_the_first_delete, stale=list(kept)).read()
    assert sorted(table["trial_id"].to_pylist()) == ["s-0", "s-1", "s-2"]


def test_many_parts_are_compacted_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MAX_PARTS", 8)
    for _ in range(3):  # each time a new process's store, as after resume
        store = Store(tmp_path, "sweep")
        for number in range(7):
            store.add_trial(trial(number))
            assert len((store.folder / "trials").names()) <= 8
    assert sorted(ids(store)) == [f"s-{number}" for number in range(7)]
