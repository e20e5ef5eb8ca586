"""Images with masks in the cache: all of them found again, and never trusted when damaged."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from devkit import Devkit, regions, small

from trainables.data import cache as stored
from trainables.data import sources, voc
from trainables.data.dataset import VOID, Dataset, Images, Masks, digest
from trainables.data.sources import load_dataset
from trainables.errors import UserError

SIDE = 16


@pytest.fixture
def kit(tmp_path: Path) -> Devkit:
    return small(tmp_path / "data")


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one name whenever the data set is decoded."""
    names: list[str] = []
    decode = voc.decode_resized

    def counted(splits, *args, **kwargs):  # type: ignore[no-untyped-def]
        names.append(splits[0].name)
        return decode(splits, *args, **kwargs)

    monkeypatch.setattr(voc, "decode_resized", counted)
    return names


def load(kit: Devkit) -> Dataset:
    """As a new process would: nothing is remembered."""
    sources._load.cache_clear()
    return load_dataset("voc2012", kit.folder, image_size=SIDE)


def masks_of(part: Images) -> Masks:
    assert part.masks is not None
    return part.masks


def assert_same(first: Dataset, second: Dataset) -> None:
    assert first is not second
    assert first.fingerprint == second.fingerprint
    assert first.notes == second.notes
    for ours, theirs in ((first.train, second.train), (first.read_test(), second.read_test())):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(masks_of(ours).positions, masks_of(theirs).positions)
        assert torch.equal(masks_of(ours).values, masks_of(theirs).values)


def entry_of(cache: Path) -> Path:
    (entry,) = (path for path in (cache / "data").iterdir() if path.is_dir())
    return entry


def test_a_second_load_decodes_nothing(kit: Devkit, decodings: list[str], cache: Path) -> None:
    first = load(kit)
    second = load(kit)
    assert_same(first, second)
    assert len(decodings) == 1
    before = masks_of(first.train).values.clone()
    masks_of(second.train).values.zero_()  # in this process alone
    assert torch.equal(masks_of(load(kit).train).values, before)
    assert len(decodings) == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_masks_are_pages_that_processes_share(kit: Devkit, cache: Path) -> None:
    data = load(kit)
    masks = masks_of(data.train)
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "_masks" in line]
    spans = [line.split()[0].split("-") for line in lines if str(cache) in line]
    assert any(int(low, 16) <= masks.values.data_ptr() < int(high, 16) for low, high in spans)


def test_without_a_cache_it_still_loads(
    kit: Devkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cached = load(kit)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="KDSWEEP_CACHE"):
        assert_same(load(kit), cached)


def test_a_kept_set_from_before_there_were_masks_is_read(kit: Devkit, cache: Path) -> None:
    shutil.rmtree(kit.root / "SegmentationClass")
    first = load(kit)
    record = entry_of(cache) / "content.json"
    known = json.loads(record.read_text())
    assert known.pop("masked") == [0, 0]
    record.write_text(json.dumps(known))
    changed = record.stat().st_mtime_ns
    assert load(kit).fingerprint == first.fingerprint
    assert record.stat().st_mtime_ns == changed


@pytest.mark.parametrize("change", ["mask", "new mask", "xml", "list"])
def test_a_changed_file_decodes_again(kit: Devkit, decodings: list[str], change: str) -> None:
    first = load(kit)
    if change == "mask":
        kit.mask("a", regions(15, 0, VOID))
        os.utime(kit.mask_file("a"), (0, 0))
    elif change == "new mask":
        kit.mask("e", regions(0, 9))
    elif change == "xml":
        shutil.copy(kit.xml_file("a"), kit.xml_file("b"))
    else:
        kit.lists("Main", "a b c d", "e")
        kit.mask("e", regions(0, 9))
    assert load(kit).fingerprint != first.fingerprint
    assert len(decodings) == 2


def test_the_same_files_in_other_lists_are_another_set(kit: Devkit) -> None:
    """What lies between training and testing is no property of a file."""
    first = load(kit)
    kit.lists("Main", "a b", "c d e")
    second = load(kit)
    assert (len(first.train), len(second.train)) == (3, 2)


def flip_last_byte(file: Path) -> None:
    """In another file of the same name: the first data set still reads the old one."""
    data = bytearray(file.read_bytes())
    file.unlink()
    data[-1] ^= 1
    file.write_bytes(data)


def no_longer(file: Path) -> None:
    file.unlink()


def another(array: np.ndarray) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.unlink()
        np.save(file, array)

    return write


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("masks", flip_last_byte),
        ("masked", flip_last_byte),
        ("masks", no_longer),
        ("masked", no_longer),
        ("masks", another(np.zeros((1, SIDE, SIDE), dtype=np.int64))),
        ("masks", another(np.zeros((1, SIDE, SIDE // 2), dtype=np.uint8))),
        ("masked", another(np.arange(2))),
    ],
)
def test_damaged_masks_are_decoded_again(
    kit: Devkit, decodings: list[str], cache: Path, name: str, damage: Callable[[Path], None]
) -> None:
    first = load(kit)
    damage(entry_of(cache) / f"train_{name}.npy")
    assert_same(load(kit), first)
    assert len(decodings) == 2
    load(kit)
    assert len(decodings) == 2


def test_masks_are_missed_in_a_set_that_is_too_large_to_be_hashed(
    kit: Devkit, decodings: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_VERIFY_BYTES", 0)
    first = load(kit)
    for name in ("masks", "masked"):
        (entry_of(cache) / f"train_{name}.npy").unlink()
    assert_same(load(kit), first)
    assert len(decodings) == 2
    another(np.zeros((1, SIDE, SIDE // 2), dtype=np.uint8))(entry_of(cache) / "train_masks.npy")
    assert_same(load(kit), first)
    assert len(decodings) == 3


@pytest.mark.parametrize(("free", "fits"), [(4351, False), (4352, True)])
def test_masks_take_room_as_well(
    kit: Devkit, monkeypatch: pytest.MonkeyPatch, cache: Path, free: int, fits: bool
) -> None:
    """Five images of 3x16x16 and two masks, before anything is decoded."""
    usage = shutil.disk_usage(kit.folder)._replace(free=free)
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda folder: usage)
    if fits:
        assert len(load(kit).train) == 3
        return
    kit.image_file("a").write_bytes(b"never read")
    need = (
        f"voc2012: 5 images and 2 masks of 16x16 pixels need 0.0 GiB in KDSWEEP_CACHE, but {cache}"
    )
    with pytest.raises(UserError, match=re.escape(need)):
        load(kit)


def test_masks_are_part_of_the_digest() -> None:
    images, labels = torch.zeros(4, 3, 2, 6, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    values = torch.tensor([0, 1, 255] * 4, dtype=torch.uint8)
    variants = [
        None,
        Masks(torch.tensor([1]), values.view(1, 2, 6)),
        Masks(torch.tensor([2]), values.view(1, 2, 6)),
        Masks(torch.tensor([1]), values.view(1, 6, 2)),
        Masks(torch.tensor([1]), values.flip(0).view(1, 2, 6)),
    ]
    digests = [digest(Images(images, labels, masks)) for masks in variants]
    assert len(set(digests)) == len(variants)
    # Sets without masks keep the fingerprint that they had.
    assert digests[0] == "cad80be9e9068056c09629c57c4eeb6171e06b680a39f472c0803f94ec72a287"
