"""Weights in several files, and what is told beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from trainables.errors import UserError
from trainables.models import create_model
from trainables.teachers.checkpoint import Checkpoint, read_checkpoint
from trainables.teachers.matching import fit_weights

SHAPE = (3, 32, 32)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return create_model("resnet8", 10, SHAPE).state_dict()


def refused(file: Path, cause: str) -> None:
    with pytest.raises(UserError) as caught:
        read_checkpoint(str(file))
    assert str(caught.value).startswith(cause)
    assert len(str(caught.value)) < 300


def shards(weights: Weights, folder: Path, ending: str, index: bool, first: int = 1) -> list[Path]:
    names = list(weights)
    files, weight_map = [], {}
    for place in range(3):
        part = {name: weights[name] for name in names[place::3]}
        file = folder / f"model-{place + first:05}-of-00003.{ending}"
        if ending == "safetensors":
            safetensors.torch.save_file(part, file)
        else:
            torch.save(part, file)
        files.append(file)
        weight_map |= dict.fromkeys(part, file.name)
    if index:
        (folder / f"model.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
def test_shards_are_joined(weights: Weights, tmp_path: Path, ending: str, index: bool) -> None:
    files = shards(weights, tmp_path, ending, index)
    given = [files[0], files[2], tmp_path, *tmp_path.glob("*.json")]
    for path in given:
        network = fit_weights("resnet8", read_checkpoint(str(path)), 10, SHAPE).network
        assert all(torch.equal(network.state_dict()[name], weights[name]) for name in weights)
    files[1].unlink()
    for path in given:
        refused(path, "shard model-00002-of-00003." + ending + " is missing")


def test_shards_that_contradict_each_other(weights: Weights, tmp_path: Path) -> None:
    files = shards(weights, tmp_path, "bin", index=True)
    name = next(iter(weights))
    torch.save({name: weights[name]}, files[1])
    refused(files[0], f"{name} is in model-00001-of-00003.bin and in model-00002-of-00003.bin")
    torch.save({}, files[1])
    refused(files[0], "bn1.weight is missing, which the index puts into model-00002-of-00003.bin")
    (tmp_path / "model.bin.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    refused(files[0], "model.bin.index.json: expected plain names of files in weight_map")
    (tmp_path / "model.bin.index.json").write_text("[]")
    refused(files[0], "model.bin.index.json is no index of shards")


@pytest.mark.parametrize("name", ["net.bin", "net.pth", "net", "net.safetensors"])
def test_the_content_tells_and_not_the_ending(weights: Weights, tmp_path: Path, name: str) -> None:
    for write in (safetensors.torch.save_file, torch.save):
        write(weights, tmp_path / name)
        network = fit_weights("resnet8", read_checkpoint(str(tmp_path / name)), 10, SHAPE).network
        assert torch.equal(network.classifier.weight, weights["classifier.weight"])


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)


def of(content: dict[str, Any], weights: Weights, folder: Path) -> Checkpoint:
    torch.save({"state_dict": weights} | content, folder / "net.pth")
    return read_checkpoint(str(folder / "net.pth"))


@pytest.mark.parametrize(
    "content",
    [
        {"args": {"mean": list(MEAN), "std": STD}},
        {"hyper_parameters": {"data": {"img_mean": MEAN, "img_std": STD}}},
        {"mean": torch.tensor(MEAN).view(1, 3, 1, 1), "std": torch.tensor(STD).view(1, 3, 1, 1)},
        {"transform": {"mean": np.array(MEAN), "std": np.array(STD)}},
        {"pixel_mean": [255 * mean for mean in MEAN], "pixel_std": [255 * std for std in STD]},
        {"other": {"normalize.mean": torch.tensor(MEAN), "normalize.std": torch.tensor(STD)}},
    ],
)
def test_the_normalisation_that_a_file_tells(
    content: dict[str, Any], weights: Weights, tmp_path: Path
) -> None:
    assert of(content, weights, tmp_path).statistics == (MEAN, STD)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"args": {"mean": None, "std": None}},
        {"accuracy": {"mean": 0.9, "std": 0.01}},
        {"args": {"mean": MEAN}},
        {"args": {"mean": MEAN, "std": (0.2, 0.0, 0.2)}},
        {"args": {"mean": MEAN, "std": (0.2, 0.2)}},
        {"a": {"mean": MEAN, "std": STD}, "b": {"mean": STD, "std": MEAN}},
        {"args": {"mean": MEAN, "std": (0.2, float("nan"), 0.2)}},
    ],
)
def test_no_normalisation_is_made_up(
    content: dict[str, Any], weights: Weights, tmp_path: Path
) -> None:
    assert of(content, weights, tmp_path).statistics is None


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"classes": ["dog", "cat"]}, ("dog", "cat")),
        ({"meta": {"CLASSES": ("dog", "cat")}}, ("dog", "cat")),
        ({"class_to_idx": {"cat": 1, "dog": 0}}, ("dog", "cat")),
        ({"config": {"id2label": {"1": "cat", "0": "dog"}}}, ("dog", "cat")),
        ({"classes": ["dog", "cat"], "class_to_idx": {"dog": 1, "cat": 0}}, None),
        ({"class_to_idx": {"cat": 1, "dog": 2}}, None),
        ({"classes": 10}, None),
        ({}, None),
    ],
)
def test_the_names_of_classes_that_a_file_tells(
    content: dict[str, Any], names: tuple[str, ...] | None, weights: Weights, tmp_path: Path
) -> None:
    assert of(content, weights, tmp_path).class_names == names


def test_facts_of_safetensors_and_of_a_folder(weights: Weights, tmp_path: Path) -> None:
    told = {"mean": json.dumps(MEAN), "std": json.dumps(STD), "classes": '["dog", "cat"]'}
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors", told)
    checkpoint = read_checkpoint(str(tmp_path / "a.safetensors"))
    assert (checkpoint.statistics, checkpoint.class_names) == ((MEAN, STD), ("dog", "cat"))
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    config = {"pretrained_cfg": {"mean": MEAN, "std": STD}, "id2label": {"0": "dog", "1": "cat"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(str(tmp_path))
    assert (checkpoint.statistics, checkpoint.class_names) == ((MEAN, STD), ("dog", "cat"))
