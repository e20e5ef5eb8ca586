"""Which folders and files of an image folder are read, and what is said of the rest."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from one_line import refused
from PIL import Image

from trainables.data import notes
from trainables.data.dataset import Dataset

Load = Callable[..., Dataset]
_random = np.random.RandomState(0)


def draw(file: Path, side: int = 8) -> Path:
    """An image like no other."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = _random.randint(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def write(root: Path, *, train: str = "train", test: str | None = "test") -> Path:
    """Two images of each of two classes to train on, one to test."""
    for name in ("cat", "dog"):
        for i in range(2):
            draw(root / train / name / f"{i}.png")
        if test:
            draw(root / test / name / "t.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with nothing beside; the cache is not in it."""
    return tmp_path / "pets"


@pytest.fixture
def load(load_again: Load) -> Callable[[Path], Dataset]:
    def load(root: Path) -> Dataset:
        first = load_again(f"imagefolder:{root}")
        # The cache says the same.
        again = load_again(f"imagefolder:{root}")
        assert (again.notes, again.sources, again.sizes) == (
            *(first.notes, first.sources, first.sizes),
        )
        assert again.fingerprint == first.fingerprint
        assert all(len(note) < 300 and "\n" not in note for note in first.notes)
        return first

    return load


# Parts


def test_a_plain_folder_needs_no_words(load, root: Path) -> None:
    found = load(write(root))
    assert found.notes == ()
    assert found.sources == ("train/", "test/")
    assert found.sizes == ((8, 8),)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "dev"])
def test_validation_serves_where_there_is_no_test(load, root: Path, name: str) -> None:
    found = load(write(root, test=name))
    assert found.notes == (f"there is no test: {name} serves as the test set",)
    assert found.sources[1] == f"{name}/"
    assert len(found.read_test()) == 2


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (["1.png", "2.png"], "test has no class folders"),
        (["images/1.png", "images/2.png"], "test has one folder, images, which is no class"),
        ([], "test has no class folders"),
        ([".ipynb_checkpoints/1.png"], "test has no class folders"),
    ],
)
def test_an_unlabelled_test_set_is_passed_over(load, root: Path, inside, why: str) -> None:
    write(root, test="valid")
    (root / "test").mkdir()
    for name in inside:
        draw(root / "test" / name)
    found = load(root)
    assert found.notes == (f"{why}: valid serves as the test set",)
    assert len(found.read_test()) == 2
    shutil.rmtree(root / "valid")
    assert f"{why}, and no val, valid or validation" in refused(load, root)


def test_beside_a_test_set_validation_is_not_read(load, root: Path) -> None:
    write(write(root), test="val")
    draw(root / "extra" / "cat" / "1.png")
    found = load(root)
    assert found.notes == (
        "test is the test set: val not read",
        "not read, beside train and test: extra",
    )
    assert found.sources == ("train/", "test/")


def test_training_and_testing_are_understood(load, root: Path) -> None:
    found = load(write(root, train="training", test="Testing"))
    assert found.sources == ("training/", "Testing/")
    assert len(found.train) == 4


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "training"], "train, training could each be the training set"),
        (["train", "Train"], "Train, train could each be the training set"),
        (["test", "testing"], "test, testing could each be the test set"),
    ],
)
def test_two_folders_for_one_part_are_refused(load, root: Path, folders, expected) -> None:
    write(root)
    for name in folders:
        draw(root / name / "cat" / "x.png")
        draw(root / name / "dog" / "x.png")
    assert expected in refused(load, root)


def test_what_is_there_instead_is_said(load, root: Path) -> None:
    draw(root / "cat" / "1.png")
    draw(root / "dog" / "1.png")
    assert "no folder train, found cat, dog" in refused(load, root)
    write(root / "zip", test=None)
    assert "no folder test or val, found train" in refused(load, root / "zip")
    shutil.rmtree(root / "cat")
    assert "found dog, zip; zip has one: name that folder" in refused(load, root)
    write(root, test=None)
    for name in ("val", "validation"):
        draw(root / name / "cat" / "1.png")
    assert "val, validation could each be the validation set" in refused(load, root)


# Files


def test_rubbish_is_skipped_and_everything_else_is_counted(load, root: Path) -> None:
    write(root)
    before = load(root)
    for name in ("train/.DS_Store", "train/cat/._0.png", "train/cat/Thumbs.db", "test/desktop.ini"):
        (root / name).write_bytes(b"rubbish")
    for name in ("train/__MACOSX/0.png", "train/cat/.ipynb_checkpoints/0.png", "test/@eaDir/0.png"):
        draw(root / name)
    assert load(root).notes == ()
    for name in ("train/cat/a.txt", "train/dog/B.TXT", "test/cat/deep/c.json", "train/README"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("text")
    for name in ("train/cat/.0.png", "train/.fox/1.png", "train/dog/.old/deep/2.png"):
        draw(root / name)
    draw(root / "test" / "loose.png")
    after = load(root)
    assert after.notes == (
        "left out: 4 files not read as images (2 .txt, 1 .json, 1 without ending); "
        "first: train/README",
        "left out: 3 images hidden by a dot in the name; first: train/.fox/1.png",
        "left out: 1 image in no class's folder; first: test/loose.png",
    )
    assert (after.fingerprint, after.classes) == (before.fingerprint, ("cat", "dog"))


def test_every_ending_is_read(load, root: Path) -> None:
    write(root)
    kinds = {"jfif": "JPEG", "JPE": "JPEG", "gif": "GIF", "pgm": "PPM", "pnm": "PPM"}
    kinds |= {"apng": "PNG", "dib": "DIB", "tga": "TGA", "PNG": "PNG", "TiFF": "TIFF"}
    for ending, kind in kinds.items():
        grey = Image.fromarray(np.full((8, 8), 77, dtype=np.uint8))
        grey.save(root / "train" / "cat" / f"x.{ending}", kind)
    found = load(root)
    assert found.notes == ()
    assert len(found.train) == 4 + len(kinds)
    assert [int(image.float().mean()) for image in found.train.images].count(77) == len(kinds)


def test_a_class_without_readable_images_is_named(load, root: Path) -> None:
    write(root)
    for i in range(2):
        (root / "train" / "dog" / f"{i}.png").rename(root / "train" / "dog" / f"{i}.svg")
    message = refused(load, root)
    assert "train/dog: expected images (.png, .jpg, ...), found none; left out: 2 files" in message
    assert "2 .svg" in message


def test_an_empty_file_is_named(load, root: Path) -> None:
    write(root)
    (root / "test" / "dog" / "t.png").write_bytes(b"")
    assert "dog/t.png: does not decode as an image (it is empty" in refused(load, root)


def test_what_was_done_to_images_is_said(load, root: Path) -> None:
    write(root)
    exif = Image.Exif()
    exif[0x0112] = 3
    clear = Image.new("RGBA", (8, 8))
    frames = [Image.fromarray(np.full((8, 8), level, dtype=np.uint8)) for level in (10, 200)]
    folder = root / "train" / "cat"
    Image.new("RGB", (8, 8), "red").save(folder / "turned.png", exif=exif)
    clear.save(folder / "clear.png")
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    assert load(root).notes == (
        "1 of 9 images are turned upright, as their EXIF orientation says",
        "1 of 9 images are partly transparent: shown on white",
        "1 of 9 images are animated or of several pages: only the first picture of each is read",
    )


def test_mixed_sizes_are_said(load, root: Path) -> None:
    write(root)
    draw(root / "train" / "cat" / "large.png", 20)
    found = load(root)
    assert found.notes == (
        "images of different sizes (8x8 to 20x20) and no image_size given: all become 224x224",
    )
    assert found.sizes == ((8, 8), (20, 20))


def test_copies_that_spoil_a_result_are_counted(load, root: Path) -> None:
    write(root)
    original = root / "train" / "cat" / "0.png"
    shutil.copy(original, root / "test" / "cat" / "again.png")
    leak, *others = load(root).notes
    assert leak.startswith("warning: 1 of 3 test images are training images as well, to the byte")
    assert f"first: {root / 'test' / 'cat' / 'again.png'}" in leak
    assert others == []
    shutil.copy(original, root / "train" / "dog" / "again.png")
    _, torn = load(root).notes
    assert torn.startswith("warning: 1 training image in several classes")
    assert f"first: {original}" in torn


# Links


def test_links_are_followed_and_lead_to_no_loop(load, root: Path) -> None:
    write(root)
    away = root / "away"
    draw(away / "fox" / "deep" / "1.png")
    draw(away / "dog" / "2.png")
    for split in ("train", "test"):
        os.symlink(away / "fox", root / split / "fox")
    os.symlink(away / "dog", root / "train" / "dog" / "more")
    os.symlink(away / "dog" / "2.png", root / "test" / "dog" / "link.png")
    os.symlink(root / "train" / "cat", root / "train" / "cat" / "itself")
    os.symlink("..", root / "train" / "cat" / "up")
    os.symlink(root, root / "train" / "cat" / "root")
    found = load(root)
    assert found.classes == ("cat", "dog", "fox")
    assert found.train.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert len(found.read_test()) == 4
    assert "left out: 3 links to a folder above; first: train/cat/itself" in found.notes


def test_odd_files_called_images_are_named(load, root: Path) -> None:
    write(root)
    victim = root / "train" / "cat" / "9.png"
    os.symlink("/nowhere/at/all.png", victim)
    assert f"{victim}: a link that leads nowhere" in refused(load, root)
    victim.unlink()
    os.mkfifo(victim)
    assert f"{victim}: a pipe" in refused(load, root)


def test_a_link_of_another_name_is_another_class(load, root: Path) -> None:
    """The same files under other names are another data set, although nothing else changed."""
    write(root)
    for split in ("train", "test"):
        (root / split / "cat").rename(root.parent / f"{split} cats")
        os.symlink(root.parent / f"{split} cats", root / split / "cat")
    assert load(root).classes == ("cat", "dog")
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "cow")
    assert load(root).classes == ("cow", "dog")


# Classes

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_one_folder_under_two_names_is_refused(load, root: Path) -> None:
    write(root)
    os.symlink(root / "train" / "cat", root / "train" / "feline")
    assert "'cat' and 'feline' are one folder" in refused(load, root)


def test_accents_may_be_written_in_two_ways(load, root: Path) -> None:
    write(root)
    draw(root / "train" / COMPOSED / "1.png")
    draw(root / "test" / DECOMPOSED / "1.png")
    assert load(root).classes == (COMPOSED, "cat", "dog")
    draw(root / "train" / DECOMPOSED / "1.png")
    assert "are one name, written in two ways" in refused(load, root)


def test_classes_that_differ_in_case(load, root: Path) -> None:
    write(root)
    draw(root / "train" / "Cat" / "1.png")
    assert "only train has Cat" in refused(load, root)
    draw(root / "test" / "Cat" / "1.png")
    found = load(root)
    assert found.classes == ("Cat", "cat", "dog")
    assert found.notes == ("classes whose names differ in case, blanks or nothing: Cat/cat",)


def test_sets_with_other_classes_are_compared_by_name(load, root: Path) -> None:
    write(root)
    (root / "test" / "dog").rename(root / "test" / "wolf")
    message = refused(load, root)
    assert "only train has dog; only test has wolf" in message


# Notes


def test_notes_are_said_once(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_said", set())
    for _ in range(2):
        notes.say_notes("pets", ["one", "two"])
    notes.say_notes("others", ["one"])
    captured = capsys.readouterr()
    assert captured.err == "pets: one\npets: two\nothers: one\n"
    assert captured.out == ""


def test_long_lists_stay_short() -> None:
    assert notes.listed(["a", "b"]) == "a, b"
    assert notes.listed(range(1_000), 3) == "0, 1, 2 and 997 more"
    assert len(notes.shortened("x" * 500 + "\ny")) <= 43
    assert notes.counted({".txt": 3, ".json": 1200}) == "1,200 .json, 3 .txt"
