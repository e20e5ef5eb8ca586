"""Which Parquet files are read, which of them are the test set, and their images."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from one_line import refused
from parquet_pets import NAMES, STRUCT, both, labels, loading, picture, write
from PIL import Image

from trainables.data.dataset import Dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


@pytest.fixture
def load(load_again: Callable[..., Dataset]) -> Callable[..., Dataset]:
    return loading(load_again)


# Files
HASHES = ("1359597a978bc4fa", "9a3b5c7d1e2f4a6b", "70d52db3c749a935")


def test_shards_with_hashes_are_one_set(load, root: Path) -> None:
    files = [root / "data" / f"train-0000{i}-of-00003-{HASHES[i]}.parquet" for i in range(3)]
    for file in files:
        write(file, [0, 1, 2], NAMES)
    write(root / "data" / "test-00000-of-00001-70d52db3c749a935.parquet", [0, 1, 2], NAMES)
    found = load(root)
    assert labels(found) == ([0, 1, 2] * 3, [0, 1, 2])
    assert found.notes == ()
    for missing, known in ((1, 0), (0, 1), (2, 0)):
        files[missing].rename(root / "kept")
        expected = f"train-0000{missing}-of-00003-*.parquet: missing, but {files[known].name}"
        assert expected in refused(load, root)
        (root / "kept").rename(files[missing])
    files[2].rename(files[2].with_name(f"train-00003-of-00003-{HASHES[2]}.parquet"))
    assert "train-00002-of-00003-*.parquet: missing" in refused(load, root)


@pytest.mark.parametrize(
    "files",
    [
        ["train.parquet", "train_small.parquet"],
        ["train.parquet", "train-00000-of-00001.parquet"],
        ["train.parquet", "train1.parquet"],
        ["train-00000-of-00001.parquet", "train-00000-of-00002.parquet"],
        ["train-00000-of-00001-aa.parquet", "train-00000-of-00001-bb.parquet"],
        ["train.parquet", "train/0000.parquet"],
        ["mnist_train.parquet", "fashion_train.parquet"],
        ["train_0.parquet", "train_0_copy.parquet"],
    ],
)
def test_files_that_are_no_shards_of_one_another_are_refused(load, root: Path, files) -> None:
    for name in [*files, "test.parquet"]:
        write(root / name, [0, 1])
    message = refused(load, root)
    assert "are no shards of one another, and each could be the training set" in message
    for name in files:
        assert name in message
    (root / files[1]).unlink()
    if "of-00002" not in files[1]:
        assert labels(load(root)) == ([0, 1], [0, 1])


def test_numbered_files_are_shards_and_a_gap_is_named(load, root: Path) -> None:
    for i in range(1, 4):
        write(root / f"train_{i}.parquet", [0, 1])
    write(root / "test.parquet", [0, 1])
    assert len(load(root).train) == 6
    (root / "train_2.parquet").unlink()
    assert "train_2.parquet: missing, but train_1.parquet is there" in refused(load, root)


@pytest.mark.parametrize(
    "pattern",
    [
        "{}/0000.parquet {}/0001.parquet",
        "{}.parquet/part.0.parquet {}.parquet/part.1.parquet",
        "{}/part-00000-4f-c000.snappy.parquet {}/part-00001-4f-c000.snappy.parquet",
        "default/{}/0000.parquet default/{}/0001.parquet",
        "pets-{}-00000-of-00002.parquet pets-{}-00001-of-00002.parquet",
        "{}_0_of_2.PARQUET {}_1_of_2.PARQUET",
    ],
)
def test_layouts(load, root: Path, pattern: str) -> None:
    for split in ("train", "test"):
        for name in pattern.format(split, split).split():
            write(root / name, [0, 1])
    assert labels(load(root)) == ([0, 1, 0, 1], [0, 1, 0, 1])


def test_of_several_configs_one_must_be_chosen(load, root: Path) -> None:
    for config, values in (("large", [0, 1, 1]), ("small", [1, 0])):
        for split in ("train", "test"):
            write(root / config / split / "0000.parquet", values)
    message = refused(load, root)
    assert f"several data sets, large, small; choose one, as in parquet:{root}/large" in message
    assert labels(load(root / "small")) == ([1, 0], [1, 0])


def test_what_lies_beside_is_said(load, root: Path) -> None:
    both(root, [0, 1, 2])
    write(root / "unsupervised.parquet", [0])
    write(root / "other" / "train.parquet", [0])
    os.symlink("..", root / "other" / "up")
    assert load(root).notes == ("not read: unsupervised.parquet, other/",)


def test_loops_of_links_end(load, root: Path) -> None:
    both(root / "deep", [0, 1, 2])
    os.symlink("..", root / "deep" / "up")
    os.symlink(".", root / "here")
    assert len(load(root).train) == 3


# The test set


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
@pytest.mark.parametrize("layout", ["{}.parquet", "{}-00000-of-00001-ab.parquet", "{}/0.parquet"])
def test_validation_serves_where_there_is_no_test(load, root: Path, name, layout) -> None:
    write(root / "train.parquet", [0, 1, 2], NAMES)
    file = layout.format(name)
    write(root / file, [2, 1, 0], NAMES)
    found = load(root)
    assert found.notes == (f"there is no test: {file} serves as the test set",)
    assert labels(found)[1] == [2, 1, 0]


@pytest.mark.parametrize(
    "unlabelled",
    [
        {"labels": [-1, -1]},
        {"labels": pa.array([None, None], pa.int64())},
        {"labels": pa.array([None, None], pa.float64())},
        {"labels": pa.array([None, None], pa.string())},
        {"labels": [0, 0], "column": ""},
    ],
)
def test_a_test_set_without_labels_is_passed_over(load, root: Path, unlabelled) -> None:
    write(root / "train.parquet", [0, 1, 2], NAMES)
    write(root / "test.parquet", **unlabelled)
    message = refused(load, root)
    assert "test.parquet has no labels, and no val, valid or validation is there" in message
    write(root / "validation.parquet", [2, 1, 0], NAMES)
    found = load(root)
    assert found.notes == ("test.parquet has no labels: validation.parquet serves as the test set",)
    assert labels(found)[1] == [2, 1, 0]


def test_beside_a_test_set_validation_is_not_read(load, root: Path) -> None:
    both(root, [0, 1, 2])
    write(root / "val.parquet", [0, 0])
    write(root / "dev.parquet", [0, 0])
    found = load(root)
    assert found.notes == ("test.parquet is the test set: dev.parquet and 1 more not read",)
    assert labels(found)[1] == [0, 1, 2]
    (root / "test.parquet").unlink()
    assert "dev.parquet, val.parquet are no shards of one another" in refused(load, root)


def test_one_missing_label_is_an_error(load, root: Path) -> None:
    both(root, [0, 1, 2])
    write(root / "test.parquet", [0, -1], NAMES)
    assert "test.parquet row 1: label -1, expected 0 or more" in refused(load, root)
    write(root / "test.parquet", [0, None], NAMES)
    assert "test.parquet row 1: no label" in refused(load, root)
    (root / "test.parquet").unlink()
    assert "expected test*.parquet or validation*.parquet beside train" in refused(load, root)


# Images


def test_images_that_are_not_in_the_file(load, root: Path) -> None:
    paths = pa.array([{"bytes": None, "path": f"images/{i}.jpg"} for i in range(2)], STRUCT)
    both(root, [0, 1], None, images=paths)
    message = refused(load, root)
    assert "train.parquet row 0: column 'image' holds no image bytes, only the path" in message
    assert "'images/0.jpg'" in message
    both(root, [0, 1], None, images=pa.array(["a.jpg", "b.jpg"]))
    assert "train.parquet: column 'image' holds no image bytes but string" in refused(load, root)
    both(root, [0, 1], None, images=pa.array([[1, 2], [3]]))
    assert "holds no image bytes but list" in refused(load, root)


def test_images_are_turned_upright_here_too(load, root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = [picture(), picture(exif=exif)]
    both(root, [0, 1], None, images=pa.array(data, pa.large_binary()))
    found = load(root)
    laid = np.asarray(Image.open(io.BytesIO(data[1])))
    upright = found.train.images[1].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(upright, laid[::-1, ::-1])
    assert "2 of 4 images are turned upright, as their EXIF orientation says" in found.notes
