"""Which Parquet files are read, and what their labels mean."""

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainables.data.dataset import Dataset
from trainables.errors import UserError

NAMES = ("cat", "dog", "eel")
NUMBERS = "the files name no classes: they are called by their numbers, 0 to"
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_random = np.random.RandomState(0)


def picture(**options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = _random.randint(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(
    file: Path,
    labels: Any,
    names: Sequence[str] | dict[str, str] | None = None,
    *,
    column: str = "label",
    images: pa.Array | None = None,
    metadata: str | None = None,
    **others: Any,
) -> None:
    """A file of images like no other; ``column`` is left out where it is empty."""
    values = labels if isinstance(labels, pa.Array) else pa.array(labels)
    if images is None:
        images = pa.array([{"bytes": picture(), "path": None} for _ in values], STRUCT)
    table = pa.table({"image": images, **({column: values} if column else {}), **others})
    if names:
        features = {column: {"names": names, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
    if metadata:
        table = table.replace_schema_metadata({"huggingface": metadata})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def both(root: Path, labels: Any, names: Any = NAMES, **options: Any) -> None:
    for split in ("train", "test"):
        write(root / f"{split}.parquet", labels, names, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


@pytest.fixture
def load(load_again: Callable[..., Dataset]) -> Callable[..., Dataset]:
    def load(root: Path) -> Dataset:
        first, again = (load_again(f"parquet:{root}") for _ in range(2))
        assert (again.notes, again.classes) == (first.notes, first.classes)
        assert all(len(note) < 300 and "\n" not in note for note in first.notes)
        return first

    return load


def refused(load: Callable[[Path], Dataset], root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(found: Dataset) -> tuple[list[int], list[int]]:
    return found.train.labels.tolist(), found.read_test().labels.tolist()


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


# Names


def test_names_in_another_order_are_mapped(load, root: Path) -> None:
    """The image of a class keeps its class, whatever number a file gives it."""
    both(root, [0, 1, 2])
    straight = load(root)
    table = pq.read_table(root / "test.parquet")
    turned = table.set_column(1, "label", pa.array([2, 1, 0]))
    features = {"label": {"names": NAMES[::-1], "_type": "ClassLabel"}}
    turned = turned.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(turned, root / "test.parquet")
    mapped = load(root)
    assert mapped.fingerprint == straight.fingerprint
    assert torch.equal(mapped.read_test().labels, straight.read_test().labels)
    assert mapped.notes == (
        "test.parquet lists the classes differently from train.parquet: mapped by name",
    )


def test_shards_of_one_set_are_mapped_likewise(load, root: Path) -> None:
    both(root, [0, 1, 2])
    (root / "train.parquet").unlink()
    for i, names in enumerate((NAMES, ("eel", "cat", "dog"))):
        write(root / f"train-0000{i}-of-00002.parquet", [0, 1, 2], names)
    found = load(root)
    assert labels(found)[0] == [0, 1, 2, 2, 0, 1]
    assert "train-00001-of-00002.parquet lists the classes differently" in found.notes[0]


def test_other_names_are_refused_and_fewer_are_mapped(load, root: Path) -> None:
    both(root, [0, 1, 2])
    write(root / "test.parquet", [0, 1, 2], ("cat", "dog", "fox"))
    message = refused(load, root)
    assert "test.parquet: names other classes than train.parquet: fox" in message
    write(root / "test.parquet", [0, 1], ("eel", "dog"))
    found = load(root)
    assert labels(found)[1] == [2, 1]
    assert found.notes[-1] == "warning: 1 of 3 classes has no test images: cat"


def test_names_in_one_file_alone_are_taken_for_all(load, root: Path) -> None:
    for named, plain in (("train", "test"), ("test", "train")):
        write(root / f"{named}.parquet", [2, 1, 0], NAMES)
        write(root / f"{plain}.parquet", [0, 1, 2])
        found = load(root)
        assert found.classes == NAMES
        assert found.notes == (
            f"{plain}.parquet names no classes: its numbers are taken for those of {named}.parquet",
        )
    write(root / "train.parquet", [0, 1, 3])
    assert "train.parquet row 2: label 3, but the files name 3 classes" in refused(load, root)


def test_equal_lists_may_name_a_class_twice(load, root: Path) -> None:
    """ImageNet has two cranes."""
    both(root, [0, 1, 2], ("crane", "dog", "crane"))
    assert load(root).classes == ("crane", "dog", "crane")
    write(root / "test.parquet", [0, 1, 2], ("dog", "crane", "crane"))
    assert "names crane twice" in refused(load, root)


def test_numbers_are_said_to_be_numbers(load, root: Path) -> None:
    both(root, [0, 1, 2], None)
    assert load(root).notes == (f"{NUMBERS} 2",)
    write(root / "test.parquet", [0, 1, 2], metadata="{broken")
    assert load(root).notes == (f"{NUMBERS} 2",)
    both(root, [0, 1, 2], {"2": "eel", "10": "fox", "0": "cat", "1": "dog"})
    assert load(root).classes == ("cat", "dog", "eel", "fox")


def test_classes_without_images_are_named(load, root: Path) -> None:
    both(root, [0, 1, 2], None)
    write(root / "train.parquet", [0, 1, 0, 1])
    assert load(root).notes == (
        f"{NUMBERS} 2",
        "warning: 1 of 3 classes has no training images: 2",
    )
    write(root / "train.parquet", [0, 0, 0, 0], NAMES)
    write(root / "test.parquet", [0, 1], NAMES)
    assert load(root).notes == (
        "warning: 2 of 3 classes have no training images: dog, eel",
        "warning: 1 of 3 classes has no test images: eel",
    )


# Labels


@pytest.mark.parametrize("dictionary", [False, True])
def test_text_is_the_name_of_a_class(load, root: Path, dictionary: bool) -> None:
    def column(values: list[str]) -> pa.Array:
        return pa.array(values).dictionary_encode() if dictionary else pa.array(values)

    write(root / "train.parquet", column(["dog", "cat", "eel", "cat"]))
    write(root / "test.parquet", column(["eel", "dog"]))
    found = load(root)
    assert found.classes == NAMES
    assert labels(found) == ([1, 0, 2, 0], [2, 1])
    write(root / "test.parquet", column(["eel", "fox"]))
    assert "warning: 1 of 4 classes has no training images: fox" in load(root).notes


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (["Cat", "dog"], "class 'Cat' is written 'cat' in the training set"),
        (["cat ", "dog"], "class 'cat ' is written 'cat' in the training set"),
        (["x", "y"], "none of its classes is in the training set: x, y"),
        (["cat", None], "test.parquet row 1: no label"),
        (["cat", " "], "test.parquet row 1: no label"),
        ([0, 1], "holds text in train.parquet and numbers in test.parquet"),
    ],
)
def test_text_that_does_not_fit_is_refused(load, root: Path, test, expected: str) -> None:
    write(root / "train.parquet", ["dog", "cat"])
    write(root / "test.parquet", test)
    assert expected in refused(load, root)


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        (pa.array([True, False]), ("false", "true"), [1, 0]),
        (pa.array([1, 0], pa.uint8()), ("0", "1"), [1, 0]),
        (pa.array([1, 0], pa.int16()).dictionary_encode(), ("0", "1"), [1, 0]),
    ],
)
def test_other_kinds_of_label(load, root: Path, values, classes, expected) -> None:
    both(root, values, None)
    found = load(root)
    assert found.classes == classes
    assert labels(found)[0] == expected


@pytest.mark.parametrize("values", [[0.0, 1.0], [[0], [1]], [b"a", b"b"]])
def test_labels_of_no_class_are_refused(load, root: Path, values) -> None:
    both(root, values, None)
    assert "column 'label' must hold integers, text or booleans, found" in refused(load, root)


def test_the_label_column(load, root: Path) -> None:
    both(root, [0, 1, 2], column="fine_label", coarse_label=[0, 0, 0])
    assert load(root).notes == ("the classes are column 'fine_label', not coarse_label",)
    both(root, [0, 1, 2], column="species")  # its metadata say that it is one
    assert load(root).classes == NAMES
    both(root, [0, 1, 2], None, column="species")
    assert "expected a column label or labels or fine_label" in refused(load, root)


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
