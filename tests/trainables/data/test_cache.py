"""The cache of decoded images: decoded once, shared, and never trusted when damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data import image_folder
from trainables.data.dataset import Dataset
from trainables.errors import UserError

Load = Callable[..., Dataset]


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """The name of a small image folder."""
    pixels = np.random.RandomState(0).randint(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "pets" / ("train" if i < 4 else "test") / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    return f"imagefolder:{tmp_path / 'pets'}"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one name whenever a data set is decoded."""
    names: list[str] = []
    decode = image_folder.decode_resized

    def counted(splits, image_size, allocate):  # type: ignore[no-untyped-def]
        names.append(splits[0].name)
        time.sleep(0.02)  # long enough for another loader to come in between
        return decode(splits, image_size, allocate)

    monkeypatch.setattr(image_folder, "decode_resized", counted)
    return names


def assert_same(first: Dataset, second: Dataset) -> None:
    assert first.fingerprint == second.fingerprint
    assert (first.mean, first.std, first.classes) == (second.mean, second.std, second.classes)
    for ours, theirs in ((first.train, second.train), (first.read_test(), second.read_test())):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def entry_of(cache: Path) -> Path:
    (entry,) = (path for path in (cache / "data").iterdir() if path.is_dir())
    return entry


def test_second_load_decodes_nothing_and_is_identical(
    pets: str, load_again: Load, decodings: list[str]
) -> None:
    first = load_again(pets)
    second = load_again(pets)
    assert len(decodings) == 1
    assert first is not second
    assert_same(first, second)


def test_cached_images_may_be_written_to_without_harm(
    pets: str, load_again: Load, decodings: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    first = load_again(pets)
    before = first.train.images.clone()
    first.train.images.zero_()
    assert torch.equal(load_again(pets).train.images, before)
    assert len(decodings) == 1
    assert not [w for w in recwarn if "writ" in str(w.message)]


def test_changed_files_and_another_size_decode_again(
    pets: str, load_again: Load, decodings: list[str]
) -> None:
    first = load_again(pets)
    assert load_again(pets, image_size=8).image_shape == (3, 8, 8)
    victim = Path(pets.partition(":")[2]) / "train" / "cat" / "0.png"
    Image.new("RGB", (16, 16), "red").save(victim)
    changed = load_again(pets)
    assert len(decodings) == 3
    assert changed.fingerprint != first.fingerprint
    os.utime(victim, (0, 0))
    assert load_again(pets).fingerprint == changed.fingerprint
    assert len(decodings) == 4


@pytest.mark.parametrize(
    "damage", ["flipped byte", "truncated", "empty", "missing", "record", "shape", "labels"]
)
def test_damaged_entry_is_rebuilt(
    pets: str, load_again: Load, decodings: list[str], cache: Path, damage: str
) -> None:
    first = load_again(pets)
    pristine = first.train.images.clone()
    entry = entry_of(cache)
    # Replaced, not written over: the first data set still reads the old file.
    victim = entry / ("content.json" if damage == "record" else "test_images.npy")
    data = bytearray(victim.read_bytes())
    victim.unlink()
    if damage == "flipped byte":
        data[-5] ^= 1
        victim.write_bytes(data)
    elif damage == "truncated":
        victim.write_bytes(data[:-5])
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "record":
        victim.write_text(json.dumps({"classes": ["cat", "dog"]}))
    elif damage == "shape":
        np.save(victim, np.zeros((4, 3, 8, 8), dtype=np.uint8))
    elif damage == "labels":
        victim.write_bytes(data)
        (entry / "train_labels.npy").unlink()
        np.save(entry / "train_labels.npy", np.array([0, 0, 1, 0]))
    rebuilt = load_again(pets)
    assert len(decodings) == 2
    assert rebuilt.fingerprint == first.fingerprint
    assert torch.equal(rebuilt.train.images, pristine)
    load_again(pets)
    assert len(decodings) == 2


def test_what_a_killed_builder_left_is_cleared(
    pets: str, load_again: Load, decodings: list[str], cache: Path
) -> None:
    load_again(pets)
    entry = entry_of(cache)
    entry.rename(f"{entry}.building")
    (Path(f"{entry}.building") / "content.json").unlink()
    load_again(pets)
    assert len(decodings) == 2
    assert entry_of(cache) == entry


def test_test_set_survives_the_loss_of_the_cache(pets: str, load_again: Load, cache: Path) -> None:
    """A trial reads the test set hours after it started."""
    dataset = load_again(pets)
    expected = load_again(pets).read_test().images.clone()
    shutil.rmtree(cache)
    assert torch.equal(dataset.read_test().images, expected)


def test_without_a_writable_cache_it_still_loads(
    pets: str,
    load_again: Load,
    decodings: list[str],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cached = load_again(pets)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("KDSWEEP_CACHE", str(blocked / "cache"))
    with pytest.warns(UserWarning, match="KDSWEEP_CACHE"):
        assert_same(load_again(pets), cached)
    assert len(decodings) == 2


def test_where_an_entry_cannot_be_made_it_still_loads(
    pets: str, load_again: Load, decodings: list[str], cache: Path
) -> None:
    cached = load_again(pets)
    entry = entry_of(cache)
    shutil.rmtree(entry)
    Path(f"{entry}.building").write_text("not a folder")
    with pytest.warns(UserWarning, match="KDSWEEP_CACHE"):
        assert_same(load_again(pets), cached)
    assert len(decodings) == 2
    assert not entry.exists()


def test_images_that_do_not_decode_leave_nothing_on_the_disk(
    pets: str, load_again: Load, cache: Path
) -> None:
    victim = Path(pets.partition(":")[2]) / "test" / "dog" / "7.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:300])
    with pytest.raises(UserError, match=f"{victim}: does not decode"):
        load_again(pets, image_size=16)
    assert not [path for path in (cache / "data").iterdir() if path.is_dir()]
    victim.write_bytes(whole)
    assert len(load_again(pets, image_size=16).train) == 4


def test_a_set_larger_than_the_memory_is_opened(
    pets: str, load_again: Load, decodings: list[str], cache: Path
) -> None:
    load_again(pets)
    entry = entry_of(cache)
    side = 4096
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = 2 * memory // (3 * side**2)
    for name in ("train_images.npy", "train_labels.npy"):
        (entry / name).unlink()
    # A file with a hole takes no room.
    shape = (count, 3, side, side)
    file = entry / "train_images.npy"
    np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)[-1, 2, -1, -1] = 7
    np.save(entry / "train_labels.npy", np.zeros(count, dtype=np.int64))
    images = load_again(pets).train.images
    assert len(decodings) == 1
    assert images.shape == shape
    assert images[[0, -1], 2, -1, -1].tolist() == [0, 7]
    images[0, 2, -1, -1] = 9  # in this process alone
    assert images[0, 2, -1, -1] == 9
    assert np.load(file, mmap_mode="r")[0, 2, -1, -1] == 0


@pytest.fixture
def album(tmp_path: Path) -> str:
    """An image folder that takes seconds to decode and 190 MB at the size of `LOADING`."""
    image = Image.effect_noise((256, 256), 40).convert("RGB")
    for split, count in (("train", 210), ("test", 30)):
        folder = tmp_path / "album" / split / "cat"
        folder.mkdir(parents=True)
        for i in range(count):
            image.save(folder / f"{i}.jpg")
    return f"imagefolder:{tmp_path / 'album'}"


LOADING = """
import sys, threading, time
import torch
import trainables.data.image_folder
from trainables.data.sources import load_dataset

def private():
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], private())
        time.sleep(0.005)

before = private()
peak = [before]
threading.Thread(target=watch, daemon=True).start()
dataset = load_dataset(sys.argv[1], image_size=512)
print(dataset.fingerprint, peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_decoding_takes_little_memory_of_its_own(album: str) -> None:
    output = subprocess.run(
        [sys.executable, "-c", LOADING, album], check=True, capture_output=True, text=True
    ).stdout
    # In MiB; the set has 180. Measured: 60, half of it for libraries and threads.
    assert float(output.split()[1]) < 120


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_load_after_a_kill_starts_anew(album: str, load_again: Load, cache: Path) -> None:
    loading = subprocess.Popen([sys.executable, "-c", LOADING, album])
    building: list[Path] = []
    while not building:
        assert loading.poll() is None
        building = list(cache.glob("data/*.building/train_images.npy"))
        time.sleep(0.01)
    time.sleep(0.3)
    loading.send_signal(signal.SIGKILL)
    assert loading.wait() == -signal.SIGKILL
    assert not list(cache.glob("data/*/content.json"))
    dataset = load_again(album, image_size=512)
    assert dataset.train.images.flatten(1).amax(1).min() > 0  # none is missing
    assert not list(cache.glob("data/*.building"))


def test_many_loaders_at_once_decode_once(
    pets: str, load_again: Load, decodings: list[str]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: load_again(pets), range(8)))
    assert len(decodings) == 1
    for dataset in loaded:
        assert_same(dataset, loaded[0])
