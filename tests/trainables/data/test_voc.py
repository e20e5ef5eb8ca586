"""PASCAL VOC 2012: which images, and what they say yes to; see `test_voc_masks` for the masks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from devkit import Devkit, load, refusal, regions, small, thing

from trainables.data.dataset import Dataset
from trainables.data.labels import IGNORED
from trainables.data.sources import load_dataset
from trainables.data.voc import CLASSES
from trainables.errors import UserError
from trainables.tasks.multi_label import MULTI_LABEL, average_precision
from trainables.tasks.registry import TASKS


@pytest.fixture
def kit(tmp_path: Path) -> Devkit:
    return small(tmp_path / "data")


def yes(row: torch.Tensor) -> dict[str, int]:
    """Every class about which an image says something other than no."""
    return {CLASSES[place]: int(row[place]) for place in row.nonzero().flatten()}


def test_objects_are_labels(kit: Devkit) -> None:
    data = load(kit)
    assert TASKS[data.task] is MULTI_LABEL
    assert (data.classes, data.num_classes) == (CLASSES, 20)
    assert data.train.labels.dtype == torch.uint8
    # A head is a part of a person; a dog counts where one of several is easy to make out.
    assert [yes(row) for row in data.train.labels] == [
        {"person": 1},
        {"cat": 1, "dog": IGNORED},
        {"dog": 1},
    ]
    # Without the tag it is not difficult; where all is, the image says neither yes nor no.
    assert [yes(row) for row in data.read_test().labels] == [{"dog": 1}, {"chair": IGNORED}]


@pytest.mark.parametrize("logit", [-9.0, 9.0])
def test_an_image_whose_only_dog_is_difficult_is_out_of_its_precision(
    kit: Devkit, logit: float
) -> None:
    kit.xml("a", thing("person"), thing("dog"))
    labels = load(kit).train.labels
    dog = CLASSES.index("dog")
    logits = torch.zeros(3, 20)
    logits[:, dog] = torch.tensor([1.0, logit, 0.5])
    assert average_precision(logits, labels)[dog] == 1.0
    assert average_precision(logits[[0, 2]], labels[[0, 2]])[dog] == 1.0


def test_a_misspelt_class_is_refused_by_file_and_name(kit: Devkit) -> None:
    kit.xml("b", thing("cat"), thing("dining table"))
    message = refusal(kit)
    assert message.startswith(f"{kit.xml_file('b')}: unknown class 'dining table'")
    assert "did you mean diningtable" in message


def test_an_image_without_objects_is_refused(kit: Devkit) -> None:
    kit.xml("b")
    assert refusal(kit) == (
        f"{kit.xml_file('b')}: the image is of no class; expected one object at least"
    )


@pytest.mark.parametrize("difficult", ["2", "-1", "yes"])
def test_difficult_is_yes_or_no(kit: Devkit, difficult: str) -> None:
    kit.xml("b", thing("cat", difficult))
    expected = f"{kit.xml_file('b')}: difficult of a cat: expected 0 or 1, not '{difficult}'"
    assert refusal(kit) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation>",
        "<annotation/>",
        "<annotation><object/></annotation>",
        "<annotation><object><difficult>0</difficult></object></annotation>",
        "<other><object><name>dog</name></object></other>",
        "<?xml version='1.0' encoding='nonsense'?><annotation/>",
    ],
)
def test_damaged_xml_is_refused_by_name(kit: Devkit, text: str) -> None:
    kit.xml_file("b").write_text(text)
    assert str(kit.xml_file("b")) in refusal(kit)


@pytest.mark.parametrize("file", ["image", "xml"])
def test_a_missing_file_is_named_with_the_list_that_names_it(kit: Devkit, file: str) -> None:
    missing = getattr(kit, f"{file}_file")("e")
    missing.unlink()
    assert refusal(kit) == f"{missing}: is missing, and ImageSets/Main/val.txt names e"


def test_a_damaged_image_is_named(kit: Devkit) -> None:
    file = kit.image_file("c")
    file.write_bytes(file.read_bytes()[:200])
    assert str(file) in refusal(kit)


def test_a_missing_list_is_named(kit: Devkit) -> None:
    file = kit.list_file("Main/val")
    file.unlink()
    assert refusal(kit) == f"{file}: cannot be read: expected a name of an image a line"
    file.write_text("\n")
    assert refusal(kit) == f"{file}: expected names of images, found none"
    file.write_text("d\ne\nd\n")
    assert refusal(kit) == f"{file}: names d more than once"


def test_without_any_list_that_would_do_it_says_why(kit: Devkit) -> None:
    shutil.rmtree(kit.root / "Annotations")
    shutil.rmtree(kit.root / "ImageSets" / "Segmentation")
    message = refusal(kit)
    assert str(kit.list_file("Segmentation/train")) in message
    assert "without Annotations it is this list that counts" in message


@pytest.mark.parametrize(
    "place", ["VOCdevkit/VOC2012", "TrainVal/VOCdevkit/VOC2012", "VOC2012", ""]
)
def test_where_the_folder_may_lie(tmp_path: Path, place: str) -> None:
    assert len(load(small(tmp_path / "data", place)).train) == 3


def test_no_folder_of_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no VOCdevkit/VOC2012 with JPEGImages.*--data"):
        load_dataset("voc2012", tmp_path)
    with pytest.raises(UserError, match=r"--data DIR.*VOCdevkit/VOC2012/"):
        load_dataset("voc2012")


def test_what_was_chosen_is_said(kit: Devkit) -> None:
    data = load(kit)
    assert data.sources == ("Main/train.txt", "Main/val.txt")
    assert data.notes[:2] == (
        "labels are those of the boxes of Annotations",
        "1 training and 1 test images have masks",
    )
    assert "17 of 20 classes have no training images" in data.notes[2]
    shutil.rmtree(kit.root / "SegmentationClass")
    without = load(kit)
    assert without.notes[1] == "no image of VOC2012 has a mask: nothing can be localised"
    assert (without.train.masks, without.read_test().masks) == (None, None)


def test_the_images_of_segmentation_alone(kit: Devkit) -> None:
    data = load(kit, "voc2012_segmentation")
    assert data.sources == ("Segmentation/train.txt", "Segmentation/val.txt")
    assert data.notes[0] == "labels are those of the boxes of Annotations"
    assert (len(data.train), len(data.read_test())) == (1, 1)
    assert yes(data.train.labels[0]) == {"person": 1}
    assert data.fingerprint != load(kit).fingerprint


def test_without_annotations_masks_say_what_an_image_is_of(kit: Devkit) -> None:
    kit.mask("a", regions(0, 1, 20, 255))
    shutil.rmtree(kit.root / "Annotations")
    data = load(kit)
    assert data.sources == ("Segmentation/train.txt", "Segmentation/val.txt")
    assert data.notes[:2] == (
        "labels are those of the masks, which know no difficult objects",
        "there are no Annotations: the images are those of ImageSets/Segmentation, as in "
        "voc2012_segmentation",
    )
    assert yes(data.train.labels[0]) == {"aeroplane": 1, "tvmonitor": 1}
    assert yes(data.read_test().labels[0]) == {"dog": 1}
    other = load(kit, "voc2012_segmentation")
    assert other.fingerprint == data.fingerprint
    assert len([note for note in other.notes if "Annotations" in note]) == 0
    kit.mask("a", regions(0, 255))
    assert "the image is of no class" in refusal(kit)


def test_images_are_squares_of_the_whole(kit: Devkit) -> None:
    """Nothing is cut off: the outer quarters of a broad image stay its outer quarters."""
    pixels = np.zeros((16, 64, 3), dtype=np.uint8)
    pixels[:, :16, 0] = pixels[:, 48:, 2] = 255
    kit.image("c", pixels)
    data = load(kit, size=32)
    assert data.image_shape == (3, 32, 32)
    red, _, blue = data.train.images[2].float().mean(1)
    assert (red[:6] > 200).all()
    assert (red[10:] < 50).all()
    assert (blue[26:] > 200).all()
    assert (blue[:22] < 50).all()


def test_how_large_and_how_it_is_seen(kit: Devkit) -> None:
    data = load_dataset("voc2012", kit.folder)
    assert data.image_shape == (3, 227, 227)
    assert (data.crop_padding, data.flip, data.resized_crops) == (0, True, 64)
    assert data.sizes == ((12, 8),)


def test_equal_files_of_other_labels_are_said(kit: Devkit) -> None:
    for copy in ("b", "e"):
        shutil.copy(kit.image_file("a"), kit.image_file(copy))
    same, torn = [note for note in load(kit).notes if "to the byte" in note]
    assert "1 of 2 test images are training images as well" in same
    assert f"(first: {kit.image_file('e')})" in same
    assert "1 training image in several classes" in torn
    assert f"(first: {kit.image_file('a')})" in torn
    kit.xml("b", thing("person"))
    assert len([note for note in load(kit).notes if "to the byte" in note]) == 1


def test_the_small_copy_of_it(shared_data: Path, load_again: Callable[..., Dataset]) -> None:
    folder = shared_data / "voc2012_mini"
    if not folder.is_dir():
        pytest.skip(f"needs VOC images in {folder}")
    data = load_dataset("voc2012", folder)
    for part in (data.train, data.read_test()):
        assert part.images.shape == (60, 3, 227, 227)
        masks = part.masks
        assert masks is not None
        assert masks.positions.tolist() == list(range(60))
        numbers = [set(mask.unique().tolist()) - {0, 255} for mask in masks.values]
        said = [{place + 1 for place in row.nonzero().flatten().tolist()} for row in part.labels]
        # A few thin pixels of a class may be lost when a mask becomes smaller.
        assert all(found <= known for found, known in zip(numbers, said, strict=True))
        assert sum(map(len, numbers)) > 0.97 * sum(map(len, said))
    again = load_again("voc2012", folder)
    assert again is not data
    assert again.fingerprint == data.fingerprint
