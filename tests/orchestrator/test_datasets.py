"""`kdsweep datasets NAME`, and validation splits that hold no image."""

from pathlib import Path

import numpy as np
import pytest
from devkit import small
from PIL import Image

from orchestrator.cli import main
from orchestrator.sweeps.checks import check_search
from orchestrator.sweeps.plan import Plan
from search_spaces.load import parse_study
from trainables.data import notes
from trainables.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(notes, "_said", set())


def write_folder(root: Path, counts: dict[str, int], test: str = "test", side: int = 8) -> Path:
    """``counts`` images of each class to train on, one to test."""
    random = np.random.RandomState(0)
    for name, count in counts.items():
        for split, images in (("train", count), (test, 1)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(images):
                pixels = random.randint(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def shown(capsys, name: str) -> dict[str, str]:
    """The printed table by its first column; the notes below it are under ``""``."""
    assert main(["datasets", name]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [line for line in captured.out.splitlines() if not line.startswith("- ")]
    table = {line[:17].strip(): line[17:] for line in lines[1:]}
    return {**table, "": "\n".join(x[2:] for x in captured.out.splitlines() if x[:2] == "- ")}


def test_a_data_set_is_shown(capsys, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 3, "dog": 1, "eel": 40}, "val")
    (root / "train" / "cat" / "notes.txt").write_text("text")
    table = shown(capsys, f"imagefolder:{root}")
    assert table["classes"] == "3: cat, dog, eel"
    assert table["training images"] == (
        "44 of train/: 1 (dog) to 40 (eel) of a class, very uneven: accuracy is that of the large "
        "ones"
    )
    assert table["test images"] == "3 of val/: 1 of each class"
    assert table["image"] == "3x8x8"
    assert table["views"] == "18 of an image: crop padding 1, mirrored or not"
    assert "wrong for digits, letters" in table["flip"]
    assert "flip: false" in table["flip"]
    assert table[""].splitlines() == [
        "there is no test: val serves as the test set",
        "left out: 1 file not read as images (1 .txt); first: train/cat/notes.txt",
    ]
    # Not said once per process: whoever asks twice is answered twice.
    assert shown(capsys, f"imagefolder:{root}") == table


def test_many_classes_and_sizes_are_summed_up(capsys, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {f"class{i:02d}": 1 for i in range(30)})
    Image.new("RGB", (30, 20)).save(root / "test" / "class00" / "wide.png")
    table = shown(capsys, f"imagefolder:{root}")
    assert table["classes"].startswith("30: class00, class01, ")
    assert table["classes"].endswith("class09 and 20 more")
    assert table["image"].startswith("3x224x224, resized from 8x8 to 30x20")


def test_whether_something_is_cut_off_is_said(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSWEEP_DATA", str(small(tmp_path / "voc").folder))
    assert shown(capsys, "voc2012")["image"] == "3x227x227, resized from 12x8: all of it, squeezed"
    root = write_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    Image.new("RGB", (12, 8)).save(root / "train" / "cat" / "wide.png")
    expected = "resized from 8x8 to 12x8: the largest part of that shape, from the centre"
    assert shown(capsys, f"imagefolder:{root}")["image"] == f"3x224x224, {expected}"


def test_digits_are_shown_without_a_guess(capsys) -> None:
    table = shown(capsys, "digits")
    assert table["training images"] == "1,438: 139 (8) to 146 (1) of a class"
    assert table["views"] == "9 of an image: crop padding 1, never mirrored"
    assert "flip" not in table
    assert table[""] == ""


def test_the_printed_digest_is_the_fingerprint(capsys) -> None:
    assert shown(capsys, "digits")["fingerprint"].startswith("020d16e408e741c0")


# Validation

STUDY = {
    "name": "s",
    "teacher": {"model": "resnet8"},
    "fixed": {"student": "resnet8"},
    "dimensions": {"method": ["student"]},
    "sampler": "grid",
}


@pytest.fixture
def few(tmp_path: Path) -> str:
    return f"imagefolder:{write_folder(tmp_path / 'few', {'cat': 3, 'dog': 3, 'eel': 3})}"


def check(dataset: str, **changes: object) -> None:
    plan = Plan(parse_study({**STUDY, "dataset": dataset, **changes}), "s", "unused")
    check_search(plan.study, lambda: plan.dataset)


def fixed(fraction: float) -> dict[str, object]:
    return {"student": "resnet8", "val_fraction": fraction}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, "val_fraction: 0.1 holds out none"),
        ({"fixed": fixed(0.16)}, "val_fraction: 0.16 holds out none"),
        ({"fixed": fixed(0.9)}, "val_fraction: 0.9 leaves none"),
        (
            {"dimensions": {"method": ["student"], "val_fraction": [0.3, 0.1]}},
            "dimensions.val_fraction: 0.1 holds out none",
        ),
        (
            {"dimensions": {"method": ["student"], "val_fraction": {"low": 0.2, "high": 0.9}},
             "sampler": "random", "trials": 1},
            "dimensions.val_fraction: 0.9 leaves none",
        ),
        (
            {"teacher": None, "pairs": {"resnet8->resnet14": {"val_fraction": 0.12},
                                        "resnet14->resnet8": {"val_fraction": 0.2}}},
            "pairs.resnet8->resnet14.val_fraction: 0.12 holds out none",
        ),
        (
            {"teacher": None, "pairs": {"resnet8->resnet14": {"val_fraction": 0.2},
                                        "resnet14->resnet8": None}},
            "val_fraction: 0.1 holds out none",
        ),
        ({"objectives": {"val_loss": "min"}}, "objectives.val_loss needs some"),
        (
            {"objectives": {"compression_params": "max"}, "fixed": fixed(0.9)},
            "val_fraction: 0.9 leaves none",
        ),
    ],
)  # fmt: skip
def test_a_split_without_images_is_refused(few: str, changes, where: str) -> None:
    with pytest.raises(UserError) as caught:
        check(few, **changes)
    message = str(caught.value)
    assert where in message
    assert "val_fraction 0.17 holds out one of every class" in message
    assert len(message) < 300


def test_the_advice_is_good(few: str, capsys) -> None:
    check(few, fixed=fixed(0.17))
    check(few, objectives={"compression_params": "max"}, fixed=fixed(0))
    assert capsys.readouterr().err == ""


def test_where_nothing_needs_it_an_empty_split_is_only_said(few: str, capsys) -> None:
    check(few, objectives={"compression_params": "max"})
    (line,) = capsys.readouterr().err.splitlines()
    assert "3 of 3 classes have no validation image at val_fraction 0.1: cat, dog, eel" in line


def test_classes_without_validation_images_are_named(tmp_path: Path, capsys) -> None:
    root = write_folder(tmp_path / "few", {"cat": 5, "dog": 4, "eel": 1})
    for _ in range(2):
        check(f"imagefolder:{root}")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"imagefolder:{root}: warning: 2 of 3 classes have no validation image at val_fraction "
        "0.1: dog, eel; val_fraction 0.13 holds out one of every class that has several at least"
    )


def test_single_images_cannot_be_split(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "few", {"cat": 1, "dog": 1})
    for fraction in (0.1, 0.6):
        with pytest.raises(UserError, match="no fraction will do: no class has two images"):
            check(f"imagefolder:{root}", fixed=fixed(fraction))
