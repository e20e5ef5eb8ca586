"""Multi-label data: what identifies a set, what is said of it, and how it is trained on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.data.views import to_float
from trainables.tasks.multi_label import MULTI_LABEL
from trainables.training import Training

CLASSES = ("red", "green", "blue")
Quick = Callable[..., TrialConfig]


def lights(change: Callable[[Tensor], None] = lambda labels: None, task: str = "multi-label"):
    draw = torch.Generator().manual_seed(0)
    labels = (torch.rand(60, 3, generator=draw) < 0.5).to(torch.uint8)
    images = torch.randint(0, 100, (60, 3, 8, 8), generator=draw, dtype=torch.uint8)
    images += 100 * labels[:, :, None, None]
    change(labels)
    train, test = Images(images[:40], labels[:40]), Images(images[40:], labels[40:])
    return Content.measure(CLASSES, train, test, task=task)


def dataset(**changes: object) -> Dataset:
    return lights(**changes).dataset("lights", crop_padding=0, flip=False)  # type: ignore[arg-type]


def test_labels_and_task_are_part_of_the_fingerprint() -> None:
    def mark(labels: Tensor) -> None:
        labels[3, 1] = 255

    prints = {lights().fingerprint, lights(mark).fingerprint, lights(task="theirs").fingerprint}
    assert len(prints) == 3
    assert lights().fingerprint == lights().fingerprint


def test_a_class_without_images_is_said() -> None:
    def nowhere(labels: Tensor) -> None:
        labels[:40, 1] = 255

    assert dataset().notes == ()
    (note,) = dataset(change=nowhere).notes
    assert note == "warning: 1 of 3 classes has no training images: green"


def test_labels_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0, 1 or 255, got 2"):
        lights(lambda labels: labels.add_(1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_a_training_scores_what_it_held_out(quick: Quick, dtype: torch.dtype) -> None:
    data = dataset()
    train = Images(data.train.images, data.train.labels.to(dtype))
    data = Dataset(**{**vars(data), "train": train})
    config = quick(dataset="lights", batch_size=8, val_fraction=0.3, train_fraction=1.0, epochs=3)
    training = Training(config, data, "resnet8", None, torch.device("cpu"))
    held_out = training.stream.val_indices
    assert len(held_out) == pytest.approx(12, abs=1)
    rows = [training.run_epoch() for _ in range(3)]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    said = training.student(to_float(data.train.images[held_out], data.mean, data.std))
    expected = MULTI_LABEL.score([(said.logits.detach().float(), data.train.labels[held_out])])
    assert rows[-1]["val_score"] == rows[-1]["val"]["map"] == pytest.approx(expected.headline)
    assert rows[-1]["val_loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert rows[-1]["val_acc"] is None
    assert training.test()["student"].headline > 0.5
