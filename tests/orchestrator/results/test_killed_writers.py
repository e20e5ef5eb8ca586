"""Writers that are killed or find no room: no acknowledged row is lost, no file is torn."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from short_rows import ids

from orchestrator.results.store import Store

REPOSITORY = Path(__file__).parents[3]
FULL_DISK = """
import resource, sys
from orchestrator.results.store import Store
store = Store(sys.argv[1], "sweep")
assert store.add_trial({"trial_id": "s-0", "attempt": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
store.add_epochs([{"trial_id": "s-1", "attempt": 1, "epoch": 1}])
assert not store.add_trial({"trial_id": "s-1", "attempt": 1})
assert store.pending == 2
assert store.read("trials").num_rows == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.flush() and store.pending == 0
"""


def test_disk_full_tears_nothing(tmp_path):
    """The file size limit cuts each write after 1000 bytes, as a full disk does."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, cwd=REPOSITORY)
    store = Store(tmp_path, "sweep")
    assert ids(store) == ["s-0", "s-1"]
    assert store.read("epochs").num_rows == 1
    assert [name for name in os.listdir(tmp_path / "sweep/trials") if name[0] == "."] == []


WRITER = """
import itertools, sys
from orchestrator.results import parts
from orchestrator.results.store import Store
parts.MAX_PARTS = 10
store = Store(sys.argv[1], "sweep")
for number in itertools.count(int(sys.argv[2])):
    store.add_epochs({"trial_id": f"s-{number}", "attempt": 1, "epoch": e} for e in (1, 2, 3))
    assert store.add_trial({"trial_id": f"s-{number}", "attempt": 1})
    print(number, flush=True)
"""


def start_writer(results: Path, first: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(results), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def test_killed_writers_lose_no_acknowledged_row(tmp_path):
    """Killed at any moment, in a write or in a compaction, and started again."""
    acknowledged: list[int] = []
    for life in range(4):
        with start_writer(tmp_path, 1000 * life) as writer:
            for _ in range(23 + 7 * life):
                acknowledged.append(int(writer.stdout.readline()))
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        store = Store(tmp_path, "sweep")
        found = ids(store)
        assert len(found) == len(set(found))
        assert {f"s-{number}" for number in acknowledged} <= set(found)
        epochs = store.read("epochs").to_pandas().groupby("trial_id")["epoch"].apply(list)
        assert all(epochs[name] == [1, 2, 3] for name in found)


def test_reader_beside_a_compacting_writer_sees_each_row_once(tmp_path):
    with start_writer(tmp_path, 0) as writer:
        known = 0
        for _ in range(40):
            known = max(known, int(writer.stdout.readline()) + 1)
            found = ids(Store(tmp_path, "sweep"))
            assert len(found) >= known
            assert found == [f"s-{number}" for number in range(len(found))]
            known = len(found)
        writer.send_signal(signal.SIGKILL)
