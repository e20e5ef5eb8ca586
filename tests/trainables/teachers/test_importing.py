"""Weights that somebody else trained."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from trainables.data.dataset import Dataset, Images
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.models.registry import create_model
from trainables.teachers.importing import import_teacher
from trainables.teachers.teacher import list_teachers, load_teacher


@pytest.fixture(scope="session")
def weights(digits_teacher) -> dict[str, Tensor]:
    """Those of the small teacher, to be imported again."""
    return {key: value.clone() for key, value in digits_teacher.load().network.state_dict().items()}


def write(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("wrapped", ["bare", "state_dict", "model", "net", "module", "nested"])
def test_usual_wrappings(
    digits: Dataset, digits_teacher, weights: dict[str, Tensor], wrapped: str, tmp_path: Path
) -> None:
    module = {f"module.{key}": value for key, value in weights.items()}
    content = {
        "bare": weights,
        "module": module,
        "nested": {"state_dict": module, "epoch": 3},
    }.get(wrapped, {wrapped: weights, "best": 0.9})
    card = import_teacher(
        "resnet8",
        write(tmp_path / "net.pth", content),
        digits,
        results=str(tmp_path / "results"),
        normalisation="dataset",
    )
    assert card.test_acc == digits_teacher.card.test_acc
    assert card.fingerprint == digits_teacher.card.fingerprint
    assert card.origin == "net.pth"


def test_safetensors_and_a_name(
    digits: Dataset, digits_teacher, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "net.safetensors"
    contiguous = {key: value.contiguous() for key, value in weights.items()}
    safetensors.torch.save_file(contiguous, file)
    results = str(tmp_path / "results")
    card = import_teacher("resnet8", str(file), digits, results=results, name="mine")
    assert card.test_acc == digits_teacher.card.test_acc
    assert list_teachers(results) == {"mine": card}
    assert load_teacher(results, "mine", "cpu").card == card


def test_the_normalisation_is_found(
    digits: Dataset, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """A network that was trained on images in [-1, 1] or [0, 1] is known by its hits."""

    def imported(content: dict[str, Tensor], normalisation: str):
        file = write(tmp_path / "net.pth", content)
        return import_teacher(
            "resnet8",
            file,
            digits,
            results=str(tmp_path),
            normalisation=normalisation,
            replacing=True,
        )

    assert imported(weights, "auto").mean == digits.mean
    by_numbers = imported(weights, "0.5/0.25")
    assert (by_numbers.mean, by_numbers.std) == ((0.5,), (0.25,))
    assert by_numbers.test_acc < imported(weights, "dataset").test_acc


def test_zero_padded_shortcuts_are_found(digits: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("resnet8_zeropad", 10, (1, 8, 8))
    file = write(tmp_path / "net.pth", network.state_dict())
    with pytest.raises(UserError, match=r"resnet8 on digits: it guesses: .* by chance 10\.0 %"):
        import_teacher("resnet8", file, digits, results=str(tmp_path), normalisation="dataset")
    card = import_teacher(
        "resnet8", file, digits, results=str(tmp_path), normalisation="dataset", force=True
    )
    assert card.model == "resnet8_zeropad"
    assert card.name == "resnet8", "as the user called it"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet14", r"^a resnet8, asked for resnet14 \(weights file '.*net\.pth'\)"),
        ("resnet50", "^a resnet8, asked for resnet50"),
        ("wrn_16_1", "^a resnet8, asked for wrn_16_1"),
        ("resnet", "unknown model 'resnet'; did you mean resnet8"),
        ("resnet_8", "unknown model 'resnet_8'"),
    ],
)
def test_a_wrong_architecture_is_one_line(
    digits: Dataset, weights: dict[str, Tensor], tmp_path: Path, model: str, message: str
) -> None:
    file = write(tmp_path / "net.pth", weights)
    with pytest.raises(UserError, match=message) as caught:
        import_teacher(model, file, digits, results=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("normalisation", "message"),
    [
        ("imagenet", "unknown normalisation 'imagenet'"),  # three channels; digits have one
        ("datset", "unknown normalisation 'datset'; did you mean dataset"),
        ("0.5", "unknown normalisation '0.5'"),
        ("0.5,0.5/1,1", "expected 1 means and 1 deviations > 0"),
        ("0.5/0", "expected 1 means and 1 deviations > 0"),
        ("nan/1", "expected 1 means and 1 deviations > 0"),
        ("0/inf", "expected 1 means and 1 deviations > 0"),
    ],
)
def test_a_wrong_normalisation_is_named(
    digits: Dataset, weights: dict[str, Tensor], tmp_path: Path, normalisation: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        import_teacher(
            "resnet8",
            write(tmp_path / "net.pth", weights),
            digits,
            results=str(tmp_path),
            normalisation=normalisation,
        )


def first(images: Images, count: int | None) -> Images:
    return Images(images.images[:count], images.labels[:count])


@pytest.mark.parametrize(
    ("trained_on", "tested_on", "expected"),
    [(400, 1_000, 0.915), pytest.param(None, None, 0.9173, marks=pytest.mark.soak)],
)
def test_the_published_resnet20(
    shared_data: Path,
    tmp_path: Path,
    trained_on: int | None,
    tested_on: int | None,
    expected: float,
) -> None:
    """akamaster/pytorch_resnet_cifar10: 91.73 % (error 8.27 %) on CIFAR-10's test set.

    Of its first 1,000 images, it has 915 right. `make soak` asks for all of them.
    """
    whole = load_dataset("cifar10", shared_data)
    data = dataclasses.replace(
        whole, train=first(whole.train, trained_on), _test=first(whole.read_test(), tested_on)
    )
    card = import_teacher(
        "resnet20",
        str(shared_data / "teachers" / "resnet20-12fca82f.th"),
        data,
        results=str(tmp_path),
    )
    assert card.test_acc == pytest.approx(expected, abs=0.0002)
    assert card.model == "resnet20_zeropad"
    assert card.name == "resnet20"
    assert card.mean == (0.485, 0.456, 0.406)
    assert card.params == 269_722


def test_a_network_of_a_library_has_a_name_for_its_file(digits: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("timm:resnet10t", 10, (1, 8, 8))
    file = write(tmp_path / "net.pth", network.backbone.state_dict())
    results = str(tmp_path / "results")
    options = {"results": results, "normalisation": "dataset", "force": True}
    card = import_teacher("timm:resnet10t.c3_in1k", file, digits, **options)
    assert (card.name, card.model) == ("timm-resnet10t", "timm:resnet10t")
    assert load_teacher(results, "timm-resnet10t", "cpu").card == card
