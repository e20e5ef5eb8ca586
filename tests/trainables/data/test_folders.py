"""Image folders and Parquet folders: round trips, resizing, and damage named by its file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.errors import UserError

CLASSES = ("cat", "dog", "eel")
Encode = Callable[[np.ndarray], bytes]


def random_pixels(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, height, width, 3), dtype=np.uint8)


def write_folder(root: Path, pixels: np.ndarray, png: Encode, test: str = "test") -> None:
    """Image i is of class i % 3; the first six train, the others test."""
    for i, image in enumerate(pixels):
        folder = root / ("train" if i < 6 else test) / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(image))


def write_parquet(
    file: Path,
    images: list[bytes | None],
    labels: list[int],
    *,
    names: tuple[str, ...] = (),
    struct: bool = True,
) -> None:
    if struct:
        column = pa.array([{"bytes": data, "path": None} for data in images])
    else:
        column = pa.array(images, pa.binary())
    table = pa.table({"img" if struct else "image": column, "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


@pytest.mark.parametrize("test", ["test", "val"])
def test_image_folder_round_trip(tmp_path: Path, png: Encode, test: str) -> None:
    pixels = random_pixels(12, 16, 24)
    write_folder(tmp_path / "pets", pixels, png, test)
    pets = load_dataset("imagefolder:pets", tmp_path)
    assert pets.classes == CLASSES
    assert pets.image_shape == (3, 16, 24)
    assert (pets.crop_padding, pets.flip) == (2, True)
    # Sorted by class, then by file name.
    assert pets.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = pixels[[0, 3, 1, 4, 2, 5]].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(pets.train.images.numpy(), expected)
    assert pets.read_test().labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = pixels[[6, 9, 10, 7, 11, 8]].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(pets.read_test().images.numpy(), expected)


def test_relative_path_falls_back_to_the_working_directory(
    tmp_path: Path, png: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "here" / "pets", random_pixels(12, 8, 8), png)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert len(load_dataset("imagefolder:pets", tmp_path / "data").train) == 6
    assert len(load_dataset(f"imagefolder:{tmp_path / 'here' / 'pets'}").train) == 6


def test_images_are_resized_by_the_shorter_side_and_cropped_in_the_centre(
    tmp_path: Path, png: Encode
) -> None:
    pixels = random_pixels(12, 20, 40)
    write_folder(tmp_path, pixels, png)
    resized = load_dataset(f"imagefolder:{tmp_path}", image_size=10)
    assert resized.image_shape == (3, 10, 10)
    whole = Image.fromarray(pixels[0]).resize((20, 10), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[:, 5:15].astype(int)
    found = resized.train.images[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - expected).max() <= 1  # rounding


def test_resizing_is_antialiased(tmp_path: Path, png: Encode) -> None:
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    write_folder(tmp_path, np.stack([stripes] * 12), png)
    resized = load_dataset(f"imagefolder:{tmp_path}", image_size=8).train.images
    # Picking pixels would give 0 or 255.
    assert (resized.float() - 127.5).abs().max() < 20


def test_mixed_sizes_become_224(tmp_path: Path, png: Encode) -> None:
    write_folder(tmp_path, random_pixels(12, 8, 8), png)
    (tmp_path / "test" / "cat" / "6.png").write_bytes(png(random_pixels(1, 9, 8)[0]))
    assert load_dataset(f"imagefolder:{tmp_path}").image_shape == (3, 224, 224)


def test_grey_and_large_jpeg_images_become_rgb(tmp_path: Path, png: Encode) -> None:
    pixels = random_pixels(12, 300, 300)
    write_folder(tmp_path, pixels, png)
    grey = pixels[0, :, :, 0]
    (tmp_path / "train" / "cat" / "0.png").write_bytes(png(grey))
    Image.fromarray(random_pixels(1, 300, 300)[0]).save(tmp_path / "train" / "cat" / "z.JPEG")
    images = load_dataset(f"imagefolder:{tmp_path}").train.images
    assert images.shape == (7, 3, 300, 300)
    np.testing.assert_array_equal(images[0].numpy(), np.stack([grey] * 3))
    others = pixels[[3, 1, 4, 2, 5]].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images[[1, 3, 4, 5, 6]].numpy(), others)


@pytest.mark.parametrize("damage", ["truncated", "truncated late", "not an image", "sixteen bits"])
def test_an_image_that_does_not_decode_is_named(tmp_path: Path, png: Encode, damage: str) -> None:
    side = 300 if damage == "truncated late" else 16  # large images are decoded by other threads
    write_folder(tmp_path, random_pixels(12, side, side), png)
    victim = tmp_path / "train" / "dog" / "4.png"
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:300])
    elif damage == "truncated late":
        victim.write_bytes(victim.read_bytes()[:200_000])
    elif damage == "not an image":
        victim.write_bytes(b"<html>404</html>")
    else:
        Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16)).save(victim)
    with pytest.raises(UserError, match=f"{victim}: does not decode"):
        load_dataset(f"imagefolder:{tmp_path}", image_size=16)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path, png: Encode) -> None:
    with pytest.raises(UserError, match="folder train"):
        load_dataset(f"imagefolder:{tmp_path}")
    write_folder(tmp_path, random_pixels(12, 8, 8), png)
    (tmp_path / "test" / "fox").mkdir()
    with pytest.raises(UserError, match=r"same class folders.*fox"):
        load_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "train" / "fox").mkdir()
    with pytest.raises(UserError, match="fox: expected images"):
        load_dataset(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_round_trip(tmp_path: Path, png: Encode, struct: bool) -> None:
    pixels = random_pixels(10, 8, 12)
    data = [png(image) for image in pixels]
    folder = tmp_path / "pets" / "data"
    write_parquet(folder / "train-00000-of-00002.parquet", data[:4], [2, 0, 1, 0], struct=struct)
    write_parquet(folder / "train-00001-of-00002.parquet", data[4:6], [1, 2], struct=struct)
    write_parquet(folder / "test.parquet", data[6:], [0, 1, 2, 2], struct=struct)
    pets = load_dataset("parquet:pets", tmp_path)
    assert pets.classes == ("0", "1", "2")
    assert pets.image_shape == (3, 8, 12)
    assert (pets.crop_padding, pets.flip) == (1, True)
    assert pets.train.labels.tolist() == [2, 0, 1, 0, 1, 2]
    np.testing.assert_array_equal(pets.train.images.numpy(), pixels[:6].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(pets.read_test().images.numpy(), pixels[6:].transpose(0, 3, 1, 2))
    assert load_dataset("parquet:pets", tmp_path, image_size=4).image_shape == (3, 4, 4)


@pytest.fixture
def parquet(tmp_path: Path, png: Encode) -> Path:
    """Six training and three test images, classes named."""
    data = [png(image) for image in random_pixels(9, 8, 8)]
    write_parquet(tmp_path / "train.parquet", data[:6], [0, 1, 2, 0, 1, 2], names=CLASSES)
    write_parquet(tmp_path / "test.parquet", data[6:], [0, 1, 2], names=CLASSES)
    return tmp_path


def test_class_names_come_from_the_metadata(parquet: Path) -> None:
    assert load_dataset(f"parquet:{parquet}").classes == CLASSES


def test_fingerprint_covers_pixels_labels_classes_and_the_test_set(
    parquet: Path, png: Encode, load_again: Callable[..., Dataset]
) -> None:
    def fingerprint() -> str:
        return load_again(f"parquet:{parquet}").fingerprint

    def rewrite(split: str, labels: list[int], seed: int, names: tuple[str, ...]) -> None:
        data: list[bytes | None] = [png(i) for i in random_pixels(len(labels), 8, 8, seed)]
        write_parquet(parquet / f"{split}.parquet", data, labels, names=names)

    found = [fingerprint()]
    rewrite("test", [0, 1, 2], 5, CLASSES)
    found.append(fingerprint())
    rewrite("test", [0, 2, 1], 5, CLASSES)
    found.append(fingerprint())
    rewrite("train", [0, 1, 2, 0, 1, 2], 6, CLASSES)
    found.append(fingerprint())
    for split, labels, seed in (("train", [0, 1, 2, 0, 1, 2], 6), ("test", [0, 2, 1], 5)):
        rewrite(split, labels, seed, ("cat", "dog", "elk"))
    found.append(fingerprint())
    assert len(set(found)) == 5
    rewrite("train", [0, 1, 2, 0, 1, 2], 6, CLASSES)
    rewrite("test", [0, 2, 1], 5, CLASSES)
    assert fingerprint() == found[3]


def test_damaged_parquet_is_named(parquet: Path, png: Encode) -> None:
    good = png(random_pixels(1, 8, 8)[0])
    train = parquet / "train.parquet"

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_dataset(f"parquet:{parquet}")

    write_parquet(train, [good, good[:60], good], [0, 1, 2])
    refused(f"{train} row 1: does not decode")
    write_parquet(train, [good, None, good], [0, 1, 2])
    refused(f"{train} row 1: column 'img' holds no image bytes")
    write_parquet(train, [good, good], [0, -1])
    refused(f"{train} row 1: label -1")
    write_parquet(train, [good, good], [0, 7], names=CLASSES)
    refused(f"{train} row 1: label 7, but the files name 3 classes")
    write_parquet(train, [], [])
    refused(f"{train}: holds no rows")
    pq.write_table(pa.table({"img": [good], "species": [0]}), train)
    refused(f"{train}: expected a column label or .*, found img, species")
    pq.write_table(pa.table({"label": [0], "picture": [good]}), train)
    refused(f"{train}: expected a column image or img, found label, picture")
    pq.write_table(pa.table({"img": [good], "label": ["cat"]}), train)
    refused("column 'label' holds text in train.parquet and numbers in test.parquet")
    pq.write_table(pa.table({"img": [good], "label": [0.5]}), train)
    refused(f"{train}: column 'label' must hold integers, text or booleans, found double")
    train.write_bytes(b"not parquet at all")
    refused(f"{train}: not a readable Parquet file")
    train.unlink()
    refused(r"expected train\*.parquet")


def test_shards_must_agree_and_be_complete(parquet: Path, png: Encode) -> None:
    (parquet / "train.parquet").unlink()
    good = png(random_pixels(1, 8, 8)[0])
    write_parquet(parquet / "train-00000-of-00003.parquet", [good], [0])
    write_parquet(parquet / "train-00002-of-00003.parquet", [good], [1])
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet: missing"):
        load_dataset(f"parquet:{parquet}")
    write_parquet(parquet / "train-00001-of-00003.parquet", [good], [1], struct=False)
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet: expected the columns"):
        load_dataset(f"parquet:{parquet}")


def test_a_set_beyond_the_disk_is_refused_before_it_is_decoded(parquet: Path, cache: Path) -> None:
    side = int(shutil.disk_usage(parquet).free ** 0.5)
    expected = (
        rf"9 images of {side}x{side} pixels need \d+ GiB in KDSWEEP_CACHE, "
        rf"but {cache} has [\d.]+ GiB free.*KDSWEEP_CACHE.*image_size"
    )
    with pytest.raises(UserError, match=expected):
        load_dataset(f"parquet:{parquet}", image_size=side)
    assert not [entry for entry in (cache / "data").iterdir() if entry.is_dir()]


def test_without_a_cache_a_set_beyond_memory_is_refused(
    parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSWEEP_CACHE", str(parquet / "train.parquet" / "not a folder"))
    side = int((os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) ** 0.5)
    expected = "9 images of .*, more than this machine's memory; choose a smaller image_size"
    with pytest.warns(UserWarning, match="KDSWEEP_CACHE"), pytest.raises(UserError, match=expected):
        load_dataset(f"parquet:{parquet}", image_size=side)
