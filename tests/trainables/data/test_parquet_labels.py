"""What the labels in Parquet files mean: names, numbers and text."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from one_line import refused
from parquet_pets import NAMES, both, labels, loading, write

from trainables.data.dataset import Dataset

NUMBERS = "the files name no classes: they are called by their numbers, 0 to"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


@pytest.fixture
def load(load_again: Callable[..., Dataset]) -> Callable[..., Dataset]:
    return loading(load_again)


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
