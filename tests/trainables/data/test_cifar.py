"""CIFAR: known properties of the real data, and every kind of damage refused by file name."""

import itertools
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from trainables.data import cifar
from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.errors import UserError

TEST_FILE = "test-00000-of-00001.parquet"
Load = Callable[..., Dataset]
Encode = Callable[[np.ndarray], bytes]


@pytest.fixture
def cifar10(shared_data: Path, cifar10_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("KDSWEEP_CACHE", str(cifar10_cache))
    return load_dataset("cifar10", shared_data)


@pytest.fixture
def copy(shared_data: Path, tmp_path: Path) -> Path:
    """A folder whose ``cifar10`` holds links to the real files, to be replaced one by one."""
    folder = tmp_path / "data" / "cifar10" / "plain_text"
    folder.mkdir(parents=True)
    for file in (shared_data / "cifar10").glob("*.parquet"):
        (folder / file.name).symlink_to(file)
    return tmp_path / "data"


def rewrite(copy: Path, file: str, change: Callable[[list, list], None]) -> Path:
    """Write a file of ``copy`` anew after ``change(encoded images, labels)`` edited its rows."""
    path = copy / "cifar10" / "plain_text" / file
    table = pq.read_table(path)
    images, labels = table["img"].to_pylist(), table["label"].to_pylist()
    change(images, labels)
    path.unlink()
    pq.write_table(pa.table({"img": images, "label": labels}), path)
    return path


def test_known_properties(cifar10: Dataset) -> None:
    test = cifar10.read_test()
    assert cifar10.image_shape == (3, 32, 32)
    assert (cifar10.crop_padding, cifar10.flip) == (4, True)
    assert cifar10.classes[6] == "frog"
    assert cifar10.train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert test.labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert torch.bincount(cifar10.train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert cifar10.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert cifar10.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)
    # As recorded for every teacher and trial: exact, to the last bit.
    assert cifar10.mean == (0.49139967861519607, 0.48215840839460783, 0.44653091444546567)
    assert cifar10.std == (0.24703223246328201, 0.24348512800005553, 0.2615878417279645)
    assert cifar10.fingerprint == (
        "93772f889d7636390502cc9145efb9f1617a7a615d4f072672080787e83a4cff"
    )
    # The first pixel of the first frog.
    assert cifar10.train.images[0, :, 0, 0].tolist() == [59, 62, 63]


def test_second_load_is_fast_and_identical(
    cifar10: Dataset, shared_data: Path, load_again: Load
) -> None:
    started = time.perf_counter()
    again = load_again("cifar10", shared_data)
    seconds = time.perf_counter() - started
    assert again is not cifar10
    assert again.fingerprint == cifar10.fingerprint
    assert torch.equal(again.train.images, cifar10.train.images)
    assert torch.equal(again.read_test().labels, cifar10.read_test().labels)
    assert seconds < 1


def test_the_folder_itself_may_be_given(
    cifar10: Dataset, shared_data: Path, load_again: Load
) -> None:
    assert load_again("cifar10", shared_data / "cifar10").fingerprint == cifar10.fingerprint


def test_truncated_shard_is_named(copy: Path) -> None:
    victim = copy / "cifar10" / "plain_text" / TEST_FILE
    data = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=f"{victim}: not a readable Parquet file"):
        load_dataset("cifar10", copy)


def test_missing_shard_is_named(copy: Path) -> None:
    victim = copy / "cifar10" / "plain_text" / "train-00001-of-00003.parquet"
    victim.unlink()
    with pytest.raises(UserError, match=f"{victim}: missing"):
        load_dataset("cifar10", copy)


def test_missing_test_set_is_named(copy: Path) -> None:
    (copy / "cifar10" / "plain_text" / TEST_FILE).unlink()
    with pytest.raises(UserError, match=r"plain_text: expected test\*.parquet"):
        load_dataset("cifar10", copy)


def test_byte_flipped_in_an_image_is_named(copy: Path) -> None:
    victim = copy / "cifar10" / "plain_text" / TEST_FILE
    image = pq.read_table(victim)["img"][7].as_py()["bytes"]
    data = bytearray(victim.read_bytes())
    # Compressed pixels pass through Parquet's own compression nearly unchanged.
    middle = image[len(image) // 2 :][:64]
    assert data.count(middle) == 1
    data[data.index(middle) + 10] ^= 0xFF
    victim.unlink()
    victim.write_bytes(data)
    with pytest.raises(UserError, match=f"{victim} row 7: does not decode"):
        load_dataset("cifar10", copy)


def test_silently_changed_pixel_is_refused(copy: Path, cifar10: Dataset, png: Encode) -> None:
    pixels = cifar10.read_test().images[1234].permute(1, 2, 0).numpy().copy()
    pixels[5, 6, 1] ^= 1

    def change(images: list, labels: list) -> None:
        images[1234] = {"bytes": png(pixels), "path": None}

    victim = rewrite(copy, TEST_FILE, change)
    expected = f"{victim}: damaged: the test images 0 to 9999 have sha256 .*, expected 8193b3fbce55"
    with pytest.raises(UserError, match=expected):
        load_dataset("cifar10", copy)


def test_two_swapped_labels_are_refused(copy: Path) -> None:
    def change(images: list, labels: list) -> None:
        assert labels[0] != labels[1]
        labels[0], labels[1] = labels[1], labels[0]

    victim = rewrite(copy, TEST_FILE, change)
    with pytest.raises(UserError, match=f"{victim}: damaged"):
        load_dataset("cifar10", copy)


def test_wrong_row_count_names_the_files(copy: Path) -> None:
    def change(images: list, labels: list) -> None:
        del images[-1], labels[-1]

    rewrite(copy, TEST_FILE, change)
    with pytest.raises(UserError, match=f"expected 10000 test images.*{TEST_FILE}: 9999"):
        load_dataset("cifar10", copy)


def test_image_of_another_size_is_named(copy: Path, png: Encode) -> None:
    def change(images: list, labels: list) -> None:
        images[3] = {"bytes": png(np.zeros((32, 31, 3), dtype=np.uint8)), "path": None}

    victim = rewrite(copy, TEST_FILE, change)
    with pytest.raises(UserError, match=f"{victim} row 3: .*31x32 pixels, expected 32x32"):
        load_dataset("cifar10", copy)


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR as it would be with 500 and 100 images, in blocks of 100."""
    monkeypatch.setattr(cifar, "_BLOCK", 100)
    monkeypatch.setattr(cifar, "_TRAIN_IMAGES", 500)
    monkeypatch.setattr(cifar, "_TEST_IMAGES", 100)
    monkeypatch.setattr(cifar, "_SHAPES", ((500, 3, 32, 32), (100, 3, 32, 32)))


@pytest.fixture
def small(few_images: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, png: Encode) -> Path:
    """A folder of a CIFAR-10 of few images."""
    draw = np.random.RandomState(0)
    folder = tmp_path / "data" / "cifar10" / "plain_text"
    folder.mkdir(parents=True)
    for split, files in (("train", (0, 167, 334, 500)), ("test", (0, 100))):
        pixels = draw.randint(0, 256, (files[-1], 32, 32, 3), dtype=np.uint8)
        labels = (np.arange(files[-1]) % 10).astype(np.uint8)
        blocks = [slice(start, start + 100) for start in range(0, files[-1], 100)]
        sums = [sha256(pixels[b].tobytes() + labels[b].tobytes()).hexdigest() for b in blocks]
        monkeypatch.setitem(cifar.CIFAR10.blocks, split, tuple(sums))
        encoded = [{"bytes": png(one), "path": None} for one in pixels]
        for number, (begin, end) in enumerate(itertools.pairwise(files)):
            table = pa.table({"img": encoded[begin:end], "label": labels[begin:end].astype(int)})
            pq.write_table(table, folder / f"{split}-{number:05d}-of-{len(files) - 1:05d}.parquet")
    return tmp_path / "data"


def test_blocks_of_a_small_set_in_another_order_give_the_same(
    small: Path, load_again: Load
) -> None:
    """As below, where it is the real one."""
    whole = load_dataset("cifar10", small)
    mix(small, 100)
    other = load_again("cifar10", small)
    assert other is not whole
    assert other.fingerprint == whole.fingerprint
    assert torch.equal(other.train.images, whole.train.images)
    assert torch.equal(other.train.labels, whole.train.labels)


def mix(data: Path, size: int) -> None:
    """Makes one training file of three, with its blocks in another order."""
    folder = data / "cifar10" / "plain_text"
    files = [folder / f"train-0000{i}-of-00003.parquet" for i in range(3)]
    whole = pa.concat_tables([pq.read_table(file) for file in files])
    for file in files:
        file.unlink()
    archive = pa.concat_tables([whole.slice(block * size, size) for block in (3, 2, 1, 4, 0)])
    pq.write_table(archive, folder / "train.parquet")


@pytest.mark.soak
def test_blocks_in_another_order_give_the_same_data_set(cifar10: Dataset, copy: Path) -> None:
    mix(copy, 10_000)
    other = load_dataset("cifar10", copy)
    assert other.fingerprint == cifar10.fingerprint
    assert torch.equal(other.train.images, cifar10.train.images)


def test_damaged_block_of_a_small_set_names_its_files(small: Path) -> None:
    """Row 150 of the second file is image 317."""
    message = refusal_of_a_doubled_image(small, 150)
    assert "train images 300 to 399" in message
    assert f"expected {cifar.CIFAR10.blocks['train'][3][:12]}" in message


@pytest.mark.soak
def test_damaged_block_of_the_training_set_names_its_files(copy: Path, png: Encode) -> None:
    """Row 15,000 of the second file is image 31,667."""
    message = refusal_of_a_doubled_image(copy, 15_000)
    assert "train images 30000 to 39999" in message
    assert "expected bb996a8ffff8" in message


def refusal_of_a_doubled_image(folder: Path, row: int) -> str:
    """What is said of a training set whose second file has an image twice, in a block that spans
    the second and the third file."""

    def change(images: list, labels: list) -> None:
        images[row] = images[row + 1]

    rewrite(folder, "train-00001-of-00003.parquet", change)
    with pytest.raises(UserError) as caught:
        load_dataset("cifar10", folder)
    message = str(caught.value)
    assert "train-00001-of-00003.parquet, " in message
    assert "train-00002-of-00003.parquet: damaged" in message
    assert "train-00000" not in message
    return message


def write_cifar100(folder: Path, png: Encode, labels: np.ndarray) -> None:
    """A stand-in with the layout of CIFAR-100; the image of class k has the colour (k, 0, 9)."""
    folder.mkdir(parents=True)
    colours = [png(np.full((32, 32, 3), (k, 0, 9), dtype=np.uint8)) for k in range(100)]
    for split, rows in (("train", labels), ("test", np.arange(100))):
        table = {
            "img": [{"bytes": colours[k % 100], "path": None} for k in rows],
            "fine_label": rows,
            "coarse_label": rows // 5,
        }
        pq.write_table(pa.table(table), folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.usefixtures("few_images")
def test_cifar100_reads_the_fine_labels(tmp_path: Path, png: Encode) -> None:
    write_cifar100(tmp_path / "cifar100" / "cifar100", png, np.arange(500) % 100)
    cifar100 = load_dataset("cifar100", tmp_path)
    assert cifar100.num_classes == 100
    assert cifar100.classes[:2] == ("apple", "aquarium_fish")
    assert cifar100.classes[99] == "worm"
    assert torch.equal(cifar100.train.images[:, 0, 0, 0].long(), cifar100.train.labels)
    assert len(cifar100.read_test()) == 100


@pytest.mark.usefixtures("few_images")
def test_cifar100_with_wrong_labels_is_refused(tmp_path: Path, png: Encode) -> None:
    labels = np.arange(500) % 100
    labels[77] = 100
    write_cifar100(tmp_path / "cifar100", png, labels)
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet row 77: label 100"):
        load_dataset("cifar100", tmp_path)


@pytest.mark.usefixtures("few_images")
def test_cifar100_with_unequal_classes_is_refused(tmp_path: Path, png: Encode) -> None:
    labels = np.arange(500) % 100
    labels[77] = 78
    write_cifar100(tmp_path / "cifar100", png, labels)
    with pytest.raises(UserError, match="4 train images have label 77, expected 5"):
        load_dataset("cifar100", tmp_path)


def test_torchvision_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    for name in names[:-1]:
        (folder / name).write_bytes(b"not a batch")
    with pytest.raises(UserError, match=r"batches.meta: missing"):
        load_dataset("cifar10", tmp_path)
    (folder / "batches.meta").write_bytes(b"not a batch")
    with pytest.raises(UserError, match=r"data_batch_1: damaged: it has md5 .*, expected c99cafc1"):
        load_dataset("cifar10", tmp_path)
