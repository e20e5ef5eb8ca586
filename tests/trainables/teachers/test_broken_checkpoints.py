"""Files that are no weights, or not these: one line below 300 characters, the cause first."""

import contextlib
import gzip
import io
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.models import create_model
from trainables.teachers.checkpoint import read_checkpoint
from trainables.teachers.matching import fit_weights

SHAPE = (3, 32, 32)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return create_model("resnet8", 10, SHAPE).state_dict()


def refused(file: Path, cause: str, model: str = "resnet8", classes: int = 10) -> str:
    """Refuses the file with a cause, which comes first; returns the line."""
    with pytest.raises(UserError) as caught:
        fit_weights(model, read_checkpoint(str(file)), classes, SHAPE)
    line = str(caught.value)
    assert line.startswith(cause), line
    assert len(line) < 300
    assert "\n" not in line
    assert file.name[-20:] in line
    return line


def saved(content: Any, folder: Path, name: str = "net.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def of_torchvision(name: str) -> Weights:
    """The state dict of one of its networks of 10 classes, with zeros that take no room."""
    from torchvision import models

    with torch.device("meta"):
        network = models.get_model(name, num_classes=10)
    zero = torch.zeros(())
    return {key: zero.expand(value.shape) for key, value in network.state_dict().items()}


def resnet_of_torchvision() -> Weights:
    return of_torchvision("resnet18")


def preactivation() -> Weights:
    """kuangliu's PreActResNet: BatchNorm of a block's inputs, no BatchNorm behind the stem."""
    large = create_model("resnet18", 10, SHAPE).state_dict()
    changed = {
        k: v for k, v in large.items() if not k.startswith("bn1") and "downsample.1" not in k
    }
    return {
        k.replace("downsample", "shortcut").replace("classifier", "linear"): (
            v[: v.shape[0] // 2] if v.dim() == 1 and ".0.bn1" in k and "layer1" not in k else v
        )
        for k, v in changed.items()
    }


CONTENTS: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "other classes": (
        lambda w: create_model("resnet8", 100, SHAPE).state_dict(),
        "100 classes in the file, 10 in the data",
    ),
    "1000 classes under other names": (
        lambda w: {
            k.replace("classifier", "fc"): v
            for k, v in create_model("resnet8", 1000, SHAPE).state_dict().items()
        },
        "1000 classes in the file, 10 in the data",
    ),
    "grey images": (
        lambda w: create_model("resnet8", 10, (1, 32, 32)).state_dict(),
        "1 input channels in the file, images have 3",
    ),
    "both": (
        lambda w: create_model("resnet8", 7, (1, 32, 32)).state_dict(),
        "7 classes in the file, 10 in the data; 1 input channels in the file, images have 3",
    ),
    "another depth": (
        lambda w: {"net": create_model("resnet32", 10, SHAPE).state_dict()},
        "a resnet32, asked for resnet8",
    ),
    "another width": (
        lambda w: create_model("resnet8_x1.5", 10, SHAPE).state_dict(),
        "a resnet8_x1.5, asked for resnet8",
    ),
    "another family": (
        lambda w: create_model("wrn_16_4", 100, SHAPE).state_dict(),
        "a wrn_16_4, asked for resnet8",
    ),
    "another layout": (
        lambda w: create_model("mobilenetv2_s2_x0.5", 10, SHAPE).state_dict(),
        "a mobilenetv2_s2_x0.5, asked for resnet8",
    ),
    "torchvision's stem": (
        lambda w: resnet_of_torchvision(),
        "a torchvision:resnet18, asked for resnet8",
    ),
    "NaN": (
        lambda w: w | {"classifier.bias": torch.full((10,), torch.nan)},
        "NaN in classifier.bias",
    ),
    "NaN under their name": (
        lambda w: (
            {k.replace("classifier", "linear"): v for k, v in w.items()}
            | {"linear.bias": torch.full((10,), torch.nan)}
        ),
        "NaN in linear.bias",
    ),
    "infinite": (
        lambda w: w | {"conv1.weight": w["conv1.weight"] / 0},
        "infinite numbers in conv1.weight",
    ),
    "a negative variance": (
        lambda w: w | {"bn1.running_var": -torch.ones(16)},
        "negative variance in bn1.running_var",
    ),
    "integers": (
        lambda w: w | {"conv1.weight": w["conv1.weight"].char()},
        "int8 in conv1.weight: expected plain floating-point weights",
    ),
    "quantised": (
        lambda w: (
            w | {"conv1.weight": torch.quantize_per_tensor(w["conv1.weight"], 0.1, 0, torch.qint8)}
        ),
        "a quantised tensor: conv1.weight",
    ),
    "sparse": (
        lambda w: w | {"classifier.weight": w["classifier.weight"].to_sparse()},
        "a sparse tensor: classifier.weight",
    ),
    "meta": (
        lambda w: w | {"conv1.weight": w["conv1.weight"].to("meta")},
        "a empty (meta) tensor: conv1.weight",
    ),
    "a module": (lambda w: nn.Linear(2, 2), "a pickled module: save its state_dict"),
    "a module beside": (
        lambda w: {"epoch": 3, "model": nn.Sequential(nn.Linear(2, 2))},
        "a pickled module under 'model': save its state_dict",
    ),
    "an optimizer": (
        lambda w: torch.optim.SGD([nn.Parameter(torch.ones(2, 2))], 0.1).state_dict(),
        "the state of an optimizer, no weights: save the network's state_dict",
    ),
    "an optimizer beside": (
        lambda w: {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}},
        "holds no state dict of tensors; there is: epoch, optimizer",
    ),
    "a list": (lambda w: [torch.ones(2)], "holds no state dict of tensors"),
    "a number": (lambda w: {"a": 1.0}, "holds no state dict of tensors; there is: a"),
    "nothing": (lambda w: {}, "holds no state dict of tensors; there is: nothing"),
    "nothing inside": (lambda w: {"state_dict": {}}, "holds no state dict of tensors"),
    "numbers for names": (lambda w: {0: torch.ones(2)}, "holds no state dict of tensors"),
    "no weight": (lambda w: {"a": {"b": torch.ones(2)}}, "holds no state dict of tensors"),
    "a tensor": (lambda w: torch.ones(2), "a single tensor"),
    "a missing key": (
        lambda w: {k: v for k, v in w.items() if "bn1.weight" not in k},
        "4 keys missing for resnet8, first: bn1.weight",
    ),
    "a key too much": (
        lambda w: w | {"layer1.0.conv3.weight": torch.ones(1)},
        "1 tensor without a place in resnet8, first: layer1.0.conv3.weight",
    ),
    "one stage more": (
        lambda w: w | {"layer4.0.conv1.weight": torch.ones(1)},
        "1 tensor without a place in resnet8, first: layer4.0.conv1.weight",
    ),
    "another shape": (
        lambda w: w | {"layer1.0.conv2.weight": torch.ones(16, 16, 5, 5)},
        "layer1.0.conv2.weight is 16x16x5x5 in the file, 16x16x3x3 in resnet8",
    ),
    "weight norm": (
        lambda w: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)).state_dict(),
        "weights in parts (parametrizations.weight.original0): remove the parametrisation",
    ),
    "FSDP": (
        lambda w: {"_fsdp_wrapped_module._flat_param": torch.ones(99)},
        "flat parameters of FSDP: save a full state_dict",
    ),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents(weights: Weights, tmp_path: Path, case: str) -> None:
    make, cause = CONTENTS[case]
    refused(saved(make(dict(weights)), tmp_path), cause)


def without_batchnorm() -> Any:
    weights = of_torchvision("vgg11")
    head = nn.Linear(512, 10).state_dict()
    return {k: v for k, v in weights.items() if k.startswith("features.")} | {
        f"fc.{k}": v for k, v in head.items()
    }


@pytest.mark.parametrize(
    ("model", "make", "cause"),
    [
        ("vgg11", lambda: of_torchvision("vgg11_bn"), "3 linear layers in the file, vgg11 has one"),
        ("vgg11", without_batchnorm, "no BatchNorm in the file, vgg11 has it"),
        ("resnet18", preactivation, "16 keys missing for resnet18, first: bn1.weight"),
        (
            "resnet18",
            lambda: of_torchvision("resnet18"),
            "a torchvision:resnet18, asked for resnet18",
        ),
        ("timm:resnet18", without_batchnorm, "no BatchNorm in the file, timm:resnet18 has it"),
    ],
)
def test_other_architectures(
    model: str, make: Callable[[], Any], cause: str, tmp_path: Path
) -> None:
    refused(saved(make(), tmp_path), cause, model)


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name in names:
            opened.writestr(name, b"x")
    return buffer.getvalue()


def tape() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("net.pth"))
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(3, 4), (torch.ones(1, 3),)), buffer)
    return buffer.getvalue()


def numbers() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "an empty file"),
    "TorchScript": (scripted, "a TorchScript file: save the state_dict"),
    "exported": (exported, "an exported program (.pt2): save the state_dict"),
    "ONNX": (lambda: b"\x08\x07\x12\x07pytorch\x1a\x051.13:" + bytes(99), "an ONNX file"),
    "LFS": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
        "a Git LFS pointer: fetch the file itself",
    ),
    "HTML": (lambda: b"\n<!DOCTYPE html><html>404</html>", "an HTML or XML page: the download"),
    "Keras": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "a Keras or HDF5 file"),
    "Keras 3": (lambda: archive("config.json", "model.weights.h5"), "a Keras or TensorFlow file"),
    "TensorFlow": (lambda: b"\x08\x01\x12\xff\x01" + bytes(99), "a TensorFlow file"),
    "JSON": (lambda: b'{"accuracy": 0.9}', "a JSON file"),
    "zip": (lambda: archive("run/net.pth", "log.txt"), "a zip archive (holds run/net.pth): unpack"),
    "tar": (tape, "a tar archive: unpack it first"),
    "gzip": (lambda: gzip.compress(b"abc"), "a gzip file: unpack it first"),
    "NumPy": (numbers, "a NumPy archive"),
    "text": (lambda: b"hello", "damaged, or no file of weights"),
    "zeros": (lambda: bytes(64), "damaged, or no file of weights"),
    "half a zip": (lambda: scripted()[:700], "damaged, or no file of weights"),
}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("case", FILES)
def test_other_files(tmp_path: Path, case: str, ending: str) -> None:
    make, cause = FILES[case]
    file = tmp_path / f"net.{ending}"
    file.write_bytes(make())
    refused(file, cause)


def test_a_name_that_leads_nowhere(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "it does not exist")
    refused(tmp_path, "a folder without weights: name the file")
    saved({}, tmp_path, "a.pth"), saved({}, tmp_path, "b.pth")
    refused(tmp_path, "a folder with a.pth, b.pth: name the file")
    (tmp_path / "__0_0.distcp").touch()
    refused(tmp_path, "a distributed checkpoint")


def test_a_long_name_is_shortened_in_its_middle(weights: Weights, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)
    line = refused(saved({"k" * 200: 1}, folder, "a_long_name.pth"), "holds no state dict")
    assert line.endswith("a_long_name.pth')")


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_named(weights: Weights, tmp_path: Path, layout: str) -> None:
    buffer = io.BytesIO()
    torch.save(weights, buffer, _use_new_zipfile_serialization=layout == "zip")
    whole = safetensors.torch.save(weights) if layout == "safetensors" else buffer.getvalue()
    file = tmp_path / "net.pth"
    draw = random.Random(0)
    for length in [1, 3, 10, 100, *(draw.randrange(len(whole)) for _ in range(40))]:
        file.write_bytes(whole[:length])
        refused(file, "damaged, or no file of weights")


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
def test_damaged_files_never_get_through_as_a_traceback(
    weights: Weights, tmp_path: Path, layout: str
) -> None:
    buffer = io.BytesIO()
    if layout == "pickle":
        pickle.dump(weights, buffer)
    else:
        torch.save(weights, buffer, _use_new_zipfile_serialization=layout == "zip")
    whole = buffer.getvalue()
    draw = random.Random(1)
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(20):
            broken[draw.randrange(min(len(broken), 9000))] = draw.randrange(256)
        (tmp_path / "net.pth").write_bytes(broken)
        with contextlib.suppress(UserError):
            fit_weights("resnet8", read_checkpoint(str(tmp_path / "net.pth")), 10, SHAPE)
