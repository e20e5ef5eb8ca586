"""Weight files of other projects load into our architectures."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainables.errors import UserError
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.matching import Fit, fit_weights

CIFAR = (3, 32, 32)
IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def cifar10_test(folder: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test images, normalised as akamaster's networks were trained, and labels."""
    (file,) = folder.glob("cifar10/test*.parquet")
    rows = pq.read_table(file).slice(0, count).to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    return (images - IMAGENET_MEAN) / IMAGENET_STD, torch.tensor([row["label"] for row in rows])


def akamaster(folder: Path, depth: int) -> Fit:
    (file,) = folder.glob(f"teachers/resnet{depth}-*.th")
    return fit_weights(f"resnet{depth}", read_checkpoint(str(file)), 10, CIFAR)


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_akamaster_resnets_load(shared_data: Path, depth: int) -> None:
    fit = akamaster(shared_data, depth)
    assert fit.model == f"resnet{depth}_zeropad"
    assert fit.how == "by known translations (linear -> classifier)"
    (file,) = shared_data.glob(f"teachers/resnet{depth}-*.th")
    stored = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    assert torch.equal(fit.network.classifier.weight, stored["module.linear.weight"])


def test_akamaster_resnet20_classifies(shared_data: Path) -> None:
    model = akamaster(shared_data, 20).network.eval()
    images, labels = cifar10_test(shared_data, 512)
    with torch.inference_mode():
        hits = (model(images).logits.argmax(1) == labels).float().mean()
    assert hits >= 0.91


def test_projection_needs_other_weights(shared_data: Path) -> None:
    (file,) = shared_data.glob("teachers/resnet20-*.th")
    with pytest.raises(UserError, match=r"^a resnet20_zeropad, asked for resnet20_x2"):
        fit_weights("resnet20_x2", read_checkpoint(str(file)), 10, CIFAR)
