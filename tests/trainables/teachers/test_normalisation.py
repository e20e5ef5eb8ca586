"""The input normalisation of a foreign network is found, or asked for."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from trainables.data.dataset import Dataset
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.models.registry import create_model
from trainables.teachers.importing import import_teacher
from trainables.teachers.normalisation import balanced, probe
from trainables.teachers.normalisations import NORMALISATIONS, known

CLASSES = ("ant", "bee", "cow", "dog")
SIDE = 16
MODEL = "resnet8_x0.5"
TRUE = ("dataset", "imagenet", "half", "none")


class Pictures(NamedTuple):
    """Images in the order of their files, class after class, and their folders."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    folder: Path


def draw(rng: np.random.Generator, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Textures of four directions on grounds of any colour: uint8 ``[N, H, W, 3]``, labels."""
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    grid = np.arange(SIDE)
    waves = (grid[None, :] + 0 * grid[:, None], grid[:, None] + 0 * grid[None, :])
    kinds = (*waves, waves[0] + waves[1], waves[0] - waves[1])
    images = []
    for label in labels:
        phase, frequency = rng.uniform(0, 6.3), rng.uniform(0.8, 1.4)
        texture = np.sin(frequency * kinds[label] + phase)[:, :, None] * rng.uniform(0.03, 0.12)
        ground = rng.normal((0.49, 0.47, 0.40), 0.18)[None, None, :]
        noise = rng.normal(0, 0.12, (SIDE, SIDE, 3))
        images.append(np.clip(ground + texture + noise, 0, 1))
    return (np.stack(images) * 255).round().astype(np.uint8), labels


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    splits = {"train": draw(rng, 160), "test": draw(rng, 50)}
    parquet = folder / "parquet"
    parquet.mkdir()
    for split, (images, labels) in splits.items():
        encoded = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = folder / "png" / split / CLASSES[label] / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "png")
            file.write_bytes(buffer.getvalue())
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        names = {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": names}})}
        table = pa.table({"image": encoded, "label": labels}).replace_schema_metadata(metadata)
        pq.write_table(table, parquet / f"{split}.parquet")
    return Pictures(splits["train"], splits["test"], folder)


def in_plain_torch(pictures: Pictures, mean: Tensor, std: Tensor) -> tuple[nn.Module, float]:
    """A network trained as anybody would, and its accuracy on the test images."""
    torch.manual_seed(0)
    network = create_model(MODEL, len(CLASSES), (3, SIDE, SIDE))

    def images(arrays: np.ndarray) -> Tensor:
        return (torch.from_numpy(arrays).permute(0, 3, 1, 2) / 255 - mean) / std

    train, labels = images(pictures.train[0]), torch.from_numpy(pictures.train[1])
    steps = 6 * (len(train) // 32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(6):
        for batch in torch.randperm(len(train)).split(32):
            seen = train[batch]
            if torch.rand(1) < 0.5:
                seen = seen.flip(3)
                target = torch.tensor([0, 1, 3, 2])[labels[batch]]  # the diagonals change places
            else:
                target = labels[batch]
            optimizer.zero_grad()
            F.cross_entropy(network(seen).logits, target).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        found = network(images(pictures.test[0])).logits.argmax(1)
    return network, (found == torch.from_numpy(pictures.test[1])).double().mean().item()


@pytest.fixture(scope="module")
def trained(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple]:
    """A file and the accuracy of a network by its normalisation, each trained once."""
    folder, made = tmp_path_factory.mktemp("trained"), dict[str, tuple[Path, float]]()

    def get(name: str) -> tuple[Path, float]:
        if name not in made:
            pixels = torch.from_numpy(pictures.train[0]).double() / 255
            own = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
            mean, std = own if name == "dataset" else map(torch.tensor, NORMALISATIONS[name])
            network, accuracy = in_plain_torch(
                pictures, mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)
            )
            file = folder / f"{name}.pth"
            torch.save({"state_dict": network.state_dict()}, file)
            made[name] = file, accuracy
        return made[name]

    return get


@pytest.fixture(params=["png", "parquet"])
def dataset(request: pytest.FixtureRequest, pictures: Pictures) -> Dataset:
    kind = {"png": "imagefolder", "parquet": "parquet"}[request.param]
    return load_dataset(f"{kind}:{pictures.folder / request.param}")


# Each normalisation once, each kind of file twice; `make soak` takes all.
@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        pytest.param(name, kind, marks=[] if turn % 2 == kinds % 2 else pytest.mark.soak)
        for turn, name in enumerate(TRUE)
        for kinds, kind in enumerate(["png", "parquet"])
    ],
    indirect=["dataset"],
)
def test_the_true_one_is_found_from_a_folder_sorted_by_class(
    name: str, trained: Callable[..., tuple], dataset: Dataset, tmp_path: Path
) -> None:
    file, accuracy = trained(name)
    lines: list[str] = []
    card = import_teacher(MODEL, str(file), dataset, results=str(tmp_path), say=lines.append)
    assert card.normalisation == name
    assert card.test_acc == accuracy, "to the image"
    assert accuracy > 0.6, "it has learned something"
    assert card.margin is not None
    # With ImageNet's, the data set's own is so near that BatchNorm has to tell.
    assert card.margin > (-0.02 if name in ("dataset", "imagenet") else 0.1)
    (told,) = [line for line in lines if line.startswith("input normalisation: ")]
    assert f"input normalisation: {name}, cross-entropy" in told
    assert "of 4 classes; next " in told


def test_it_is_asked_for_where_it_is_not_clear(dataset: Dataset, tmp_path: Path) -> None:
    """Of a network without BatchNorm that answers alike to everything, nothing can be found."""
    torch.manual_seed(0)
    network = create_model(MODEL, 4, (3, SIDE, SIDE))
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.bn1.running_mean += 30
    torch.save(network.state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError) as caught:
        import_teacher(MODEL, str(tmp_path / "net.pth"), dataset, results=str(tmp_path))
    text = str(caught.value)
    assert text.startswith("--normalisation: it is not clear")
    assert all(f"{name} 1.3" in text for name in ("dataset", "imagenet")), text
    assert len(text) < 300
    assert not (tmp_path / "teachers").exists()


def test_what_the_user_says_is_taken_and_doubted(
    trained: Callable[..., tuple], dataset: Dataset, tmp_path: Path
) -> None:
    lines: list[str] = []
    card = import_teacher(
        MODEL,
        str(trained("half")[0]),
        dataset,
        results=str(tmp_path),
        normalisation="none",
        force=True,
        say=lines.append,
    )
    assert (card.normalisation, card.mean) == ("none", (0.0, 0.0, 0.0))
    assert any("--normalisation none: half fits clearly better" in line for line in lines)


def test_only_training_images_are_asked(
    trained: Callable[..., tuple], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "read_test", lambda self: pytest.fail("the test set was read"))
    network = create_model(MODEL, 4, (3, SIDE, SIDE)).eval()
    network.load_state_dict(torch.load(trained("half")[0], weights_only=True)["state_dict"])
    found = probe(network, dataset, known(dataset), torch.device("cpu"))
    assert found.choose().name == "half"
    assert found.choose().gap == min(c.gap for c in found.candidates if c.gap is not None)


@pytest.mark.parametrize("count", [4, 30, 64, 500])
def test_the_images_are_of_all_classes_alike(count: int) -> None:
    labels = torch.arange(5).repeat_interleave(torch.tensor([100, 3, 40, 200, 57]))
    chosen = balanced(labels, count)
    assert len(chosen) == len(chosen.unique()) == min(count, 400)
    counts = torch.bincount(labels[chosen], minlength=5)
    assert torch.equal(chosen, balanced(labels, count))
    if count <= 15:
        assert counts.max() - counts.min() <= 1
    else:
        assert counts[1] == 3
        assert counts[[0, 2, 3]].max() - counts[[0, 2, 3]].min() <= 1 or count == 500


def test_usual_deviations_are_known(shared_data: Path) -> None:
    """(0.2023, 0.1994, 0.2010), as many repositories have it, is the mean of the images' own."""
    found = known(load_dataset("cifar10", shared_data))
    assert found["per-image"][1] == pytest.approx((0.2023, 0.1994, 0.2010), abs=1e-3)
    assert found["dataset"][1] == pytest.approx((0.2470, 0.2435, 0.2616), abs=2e-4)
