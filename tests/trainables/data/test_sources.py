"""Names, the embedded digits, and what a user reads when the data are not there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.data import digits as source
from trainables.data.sources import SOURCES, load_dataset
from trainables.errors import UserError


def test_digits_need_no_data() -> None:
    digits = load_dataset("digits")
    test = digits.read_test()
    assert digits.image_shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    assert digits.num_classes == 10
    assert (len(digits.train), len(test)) == (1438, 359)
    assert (digits.crop_padding, digits.flip) == (1, False)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64


def test_digits_are_those_of_sklearn_in_256_levels() -> None:
    from sklearn.datasets import load_digits

    digits = load_dataset("digits")
    test = digits.read_test()
    ours = torch.cat([digits.train.images, test.images]).squeeze(1).numpy()
    labels = torch.cat([digits.train.labels, test.labels]).numpy()
    expected = np.rint(load_digits().images * 255 / 16)

    def rows(images: np.ndarray, targets: np.ndarray) -> list[bytes]:
        flat = np.column_stack([images.reshape(len(images), -1), targets]).astype(np.uint8)
        return sorted(row.tobytes() for row in flat)

    # Every digit exactly once in one of the two sets.
    assert rows(ours, labels) == rows(expected, load_digits().target)
    share = torch.bincount(test.labels) / torch.bincount(torch.from_numpy(labels))
    assert ((share > 0.195) & (share < 0.205)).all()


def test_digits_are_decoded_once_per_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path))
    first = source.load_digits()

    def again(allocate: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(source, "_decode", again)
    second = source.load_digits()
    assert second.fingerprint == first.fingerprint
    assert torch.equal(second.train.images, first.train.images)
    assert torch.equal(second.read_test().labels, first.read_test().labels)


def test_fingerprint_of_digits_is_the_same_everywhere() -> None:
    assert load_dataset("digits").fingerprint == (
        "020d16e408e741c0b780566fff8db46667aa62f2a3da0162e57f67fd4a9aec42"
    )


def test_statistics_are_those_of_the_scaled_training_pixels() -> None:
    digits = load_dataset("digits")
    scaled = digits.train.images.double() / 255
    assert digits.mean == pytest.approx((float(scaled.mean()),), abs=1e-12)
    assert digits.std == pytest.approx((float(scaled.std(correction=0)),), abs=1e-12)


def test_a_data_set_is_loaded_once_per_process() -> None:
    assert load_dataset("digits") is load_dataset("digits")


def test_every_data_set_is_described() -> None:
    names = [known.name for known in SOURCES.values()]
    assert names == [
        *("digits", "cifar10", "cifar100", "voc2012", "voc2012_segmentation"),
        *("imagefolder:PATH", "parquet:PATH"),
    ]
    assert all(known.description and known.expects for known in SOURCES.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifra10", "unknown dataset 'cifra10'; did you mean .*cifar10"),
        ("cifar10", r"--data DIR \(or KDSWEEP_DATA\).*cifar10/\*\*/train\*.parquet"),
        ("voc2012", r"--data DIR \(or KDSWEEP_DATA\).*VOCdevkit/VOC2012/ with JPEGImages"),
        ("voc2021", "unknown dataset 'voc2021'; did you mean .*voc2012"),
        ("voc2012:there", "unknown dataset 'voc2012:there'"),
        ("imagefolder:", "imagefolder:PATH"),
        ("imagefolder:nowhere", "no folder nowhere in .*--data"),
        ("parquet:nowhere", "no folder nowhere"),
    ],
)
def test_errors_name_what_is_expected(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(name)


def test_absent_cifar_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset("cifar100", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "cifar-100-python" in str(caught.value)
    assert "--data" in str(caught.value)


def test_data_folder_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSWEEP_DATA", str(tmp_path / "from-environment"))
    with pytest.raises(UserError, match="from-environment"):
        load_dataset("cifar10")


def test_image_size_is_refused_where_it_is_fixed() -> None:
    for name in ("cifar10", "cifar100"):
        with pytest.raises(UserError, match=f"image_size: {name} has images of a fixed size"):
            load_dataset(name, "anywhere", image_size=16)
    with pytest.raises(UserError, match="image_size"):
        load_dataset("digits", image_size=16)
    with pytest.raises(UserError, match="image_size"):
        load_dataset("digits", image_size=0)
