"""A teacher belongs to its classes: mapped by name, or refused by name."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.errors import UserError
from trainables.models.registry import create_model
from trainables.models.weights import Card
from trainables.teachers.classes import aligned, class_order, guessing, remark
from trainables.teachers.filing import file_teacher
from trainables.teachers.teacher import load_teacher, teacher_folder
from trainables.training import Training

CPU = torch.device("cpu")
NAMES = ("ant", "bee", "cow", "dog")


def data(names: Sequence[str], name: str = "animals", seed: int = 0) -> Dataset:
    """The same images, whatever the order in which the classes are named."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    truth = torch.arange(40) % 4
    place = {name: index for index, name in enumerate(names)}
    labels = torch.tensor([place.get(NAMES[label], int(label)) for label in truth])
    train, test = Images(pixels[:32], labels[:32]), Images(pixels[32:], labels[32:])
    return Content.measure(tuple(names), train, test).dataset(name, crop_padding=1, flip=True)


def file(results: Path, dataset: Dataset, **changes: object) -> Card:
    """A teacher with drawn weights."""
    torch.manual_seed(1)
    network = create_model("resnet8_x0.5", 4, (3, 8, 8))
    facts: dict[str, object] = {
        "name": "t",
        "model": "resnet8_x0.5",
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "classes": 4,
        "class_names": dataset.classes,
        "image_shape": (3, 8, 8),
        "mean": dataset.mean,
        "std": dataset.std,
        "test_acc": 0.5,
        "params": 1,
        "macs": 1,
        "origin": "net.pth",
    }
    card = Card(**(facts | changes))  # type: ignore[arg-type]
    return file_teacher(teacher_folder(str(results)), "t", network, card)[0]


def test_another_order_is_mapped_by_name(tmp_path: Path) -> None:
    own, turned = data(NAMES), data(NAMES[::-1])
    card = file(tmp_path, own)
    assert class_order(card, own) is None
    assert class_order(card, turned) == [3, 2, 1, 0]
    views = own.train.images
    before = load_teacher(str(tmp_path), "t", "cpu", own)(views)
    after = load_teacher(str(tmp_path), "t", "cpu", turned)(views)
    assert torch.equal(after.logits, before.logits.flip(1))
    assert torch.equal(after.embedding, before.embedding)
    one = load_teacher(str(tmp_path), "t", "cpu", own).score(own.read_test())
    other = load_teacher(str(tmp_path), "t", "cpu", turned).score(turned.read_test())
    assert one.loss == pytest.approx(other.loss)
    assert one.values == other.values


def test_whatever_reads_the_network_sees_the_datas_order(
    tmp_path: Path, quick: Callable[..., TrialConfig]
) -> None:
    """SRD asks the teacher's last layer itself."""
    turned = data(NAMES[::-1])
    file(tmp_path, data(NAMES))
    teacher = load_teacher(str(tmp_path), "t", "cpu", turned)
    config = quick(method="srd", teacher="t", student="wrn_10_0.5", dataset="animals")
    training = Training(config, turned, "wrn_10_0.5", teacher, CPU)
    outputs = teacher(turned.train.images)
    (term,) = (m for m in training.method.modules() if hasattr(m, "representational"))
    said = torch.nn.functional.linear(outputs.embedding, term.weight, term.bias)
    assert torch.allclose(said, outputs.logits, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ant", "bee", "cow", "eel"), r"other classes than dataset 'animals': dog instead of eel"),
        (("a", "b", "c", "d"), r"ant, bee, cow and 1 more instead of a, b, c and 1 more"),
    ],
)
def test_other_classes_are_refused_by_name(
    names: Sequence[str], message: str, tmp_path: Path
) -> None:
    card = file(tmp_path, data(NAMES))
    for refused in (
        lambda: class_order(card, data(names)),
        lambda: load_teacher(str(tmp_path), "t", "cpu", data(names)),
    ):
        with pytest.raises(UserError, match=message) as caught:
            refused()
        assert len(str(caught.value)) < 300


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    card = file(tmp_path, data(NAMES))
    with pytest.raises(UserError, match=r"made for 4 classes .* has 5"):
        class_order(card, data((*NAMES, "eel")))


def test_names_in_twice_are_refused_where_the_order_differs(tmp_path: Path) -> None:
    card = file(tmp_path, data(NAMES), class_names=("ant", "ant", "cow", "dog"))
    twice = data(("ant", "cow", "ant", "dog"))
    with pytest.raises(UserError, match="has the class 'ant' twice"):
        class_order(card, twice)


def test_other_images_of_the_same_classes_are_noted(tmp_path: Path) -> None:
    card = file(tmp_path, data(NAMES))
    assert remark(card, data(NAMES)) is None
    said = remark(card, data(NAMES, "other", seed=1))
    assert said == "teacher 't' was made for other data (animals) with the same classes"
    said = remark(card, data(NAMES[::-1], "other"))
    assert said is not None
    assert said.endswith("in another order: its logits are mapped by name")


def test_cards_of_older_versions_serve_their_own_data_alone(tmp_path: Path) -> None:
    card = replace(file(tmp_path, data(NAMES)), class_names=())
    assert class_order(card, data(NAMES)) is None
    with pytest.raises(UserError, match="kept no class names"):
        class_order(card, data(NAMES[::-1]))


def test_aligning_moves_rows_and_bias_together() -> None:
    network = create_model("wrn_10_1", 3, (3, 8, 8)).eval()
    images = torch.randn(2, 3, 8, 8)
    before = network(images).logits
    assert torch.equal(aligned(network, [2, 0, 1])(images).logits, before[:, [2, 0, 1]])
    assert torch.equal(aligned(network, None)(images).logits, before[:, [2, 0, 1]])


def test_the_fingerprint_tells_class_orders_apart(tmp_path: Path) -> None:
    one = file(tmp_path / "a", data(NAMES))
    other = file(tmp_path / "b", data(NAMES), class_names=NAMES[::-1])
    assert one.fingerprint != other.fingerprint
    assert load_teacher(str(tmp_path / "b"), "t", "cpu").card == other


@pytest.mark.parametrize(
    ("classes", "test_acc", "told"),
    [(10, 0.1, True), (10, 0.145, True), (10, 0.146, False), (2, 0.52, True), (2, 0.53, False)],
)
def test_a_teacher_that_guesses_is_told_of(
    classes: int, test_acc: float, told: bool, tmp_path: Path
) -> None:
    card = file(tmp_path, data(NAMES))
    said = guessing(replace(card, classes=classes, test_acc=test_acc, test_score=test_acc))
    assert (said is not None) == told
    if said:
        assert f"'t' has {100 * test_acc:.2f} % on the test set" in said
        assert f"one of {classes} classes" in said
    assert guessing(replace(card, test_acc=None)) is None  # of many labels: guesses have no share
