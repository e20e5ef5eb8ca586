"""Weight files of other projects load into our architectures."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainables.models import create_model

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


def akamaster(folder: Path, pattern: str) -> dict[str, torch.Tensor]:
    (file,) = folder.glob(f"teachers/{pattern}")
    stored = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    return {key.removeprefix("module."): value for key, value in stored.items()}


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_akamaster_resnets_load(shared_data: Path, depth: int) -> None:
    model = create_model(f"resnet{depth}_zeropad", 10, CIFAR)
    weights = akamaster(shared_data, f"resnet{depth}-*.th")
    model.load_state_dict(weights, strict=True)
    assert torch.equal(model.classifier.weight, weights["linear.weight"])


def test_akamaster_resnet20_classifies(shared_data: Path) -> None:
    model = create_model("resnet20_zeropad", 10, CIFAR).eval()
    model.load_state_dict(akamaster(shared_data, "resnet20-*.th"), strict=True)
    images, labels = cifar10_test(shared_data, 512)
    with torch.inference_mode():
        hits = (model(images).logits.argmax(1) == labels).float().mean()
    assert hits >= 0.91


def test_projection_needs_other_weights(shared_data: Path) -> None:
    model = create_model("resnet20", 10, CIFAR)
    with pytest.raises(RuntimeError, match="downsample"):
        model.load_state_dict(akamaster(shared_data, "resnet20-*.th"), strict=True)
