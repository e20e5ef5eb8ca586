"""Files of weights: where the weights lie, what is told beside them, and what is no such file."""

import argparse
import collections
import datetime
import enum
import pathlib
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.models import create_model
from trainables.teachers.checkpoint import Checkpoint, read_checkpoint
from trainables.teachers.matching import Fit, fit_weights

SHAPE = (3, 32, 32)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return create_model("resnet8", 10, SHAPE).state_dict()


def read(content: Any, folder: Path, name: str = "net.pth") -> Checkpoint:
    torch.save(content, folder / name)
    return read_checkpoint(str(folder / name))


def fit(checkpoint: Checkpoint) -> Fit:
    return fit_weights("resnet8", checkpoint, 10, SHAPE)


def same(found: Any, weights: Weights) -> bool:
    state = found.network.state_dict() if isinstance(found, Fit) else found
    return all(torch.equal(state[name], tensor) for name, tensor in weights.items())


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def other(weights: Weights) -> Weights:
    return {name: tensor * 2 for name, tensor in weights.items()}


class AttributeDict(dict):
    """As easydict, yacs and mmengine have them."""


class Colour(enum.Enum):
    RED = 1


class Slotted:
    __slots__ = ("lr",)

    def __init__(self) -> None:
        self.lr = 0.1


def strange() -> dict[str, Any]:
    """What training scripts put beside their weights."""
    return {
        "args": argparse.Namespace(lr=0.1, data=pathlib.Path("data"), when=datetime.datetime.now()),
        "simple": types.SimpleNamespace(x=1),
        "best": np.float64(0.91),
        "int": np.int64(3),
        "history": np.arange(6.0).reshape(2, 3),
        "names": np.array(["a", "b"], dtype=object),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "queue": collections.deque([1, 2]),
        "config": AttributeDict(model=AttributeDict(name="resnet8")),
        "enum": Colour.RED,
        "slots": Slotted(),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "set": {1, 2},
        "frozen": frozenset({1}),
        "bytes": b"abc",
        "complex": 1j,
        "range": range(3),
        "big": 1 << 80,
        "generator": np.random.default_rng(0).bit_generator.state,
        "function": len,
        "itself": type,
    }


@pytest.mark.parametrize("layout", ["zip", "legacy", "protocol 0", "protocol 2", "protocol 5"])
def test_plain_things_beside_the_weights(weights: Weights, tmp_path: Path, layout: str) -> None:
    content = {"state_dict": weights, **strange()}
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(3, 3))])
    content["optimizer"] = optimizer.state_dict()
    file = tmp_path / "net.pth"
    if layout == "zip":
        torch.save(content, file)
    elif layout == "legacy":
        torch.save(content, file, _use_new_zipfile_serialization=False)
    elif layout == "protocol 0":
        file.write_bytes(pickle.dumps({**content, "slots": 0}, protocol=0))
    else:
        file.write_bytes(pickle.dumps(content, protocol=int(layout[-1])))
    found = read_checkpoint(str(file))
    assert found.place == "state_dict"
    assert found.weights.keys() == weights.keys()
    assert same(found.weights, weights)
    assert same(fit(found), weights)


WRAPPINGS = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "model": lambda w: {"model": w},
    "net": lambda w: {"net": w, "acc": 91.0},
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}}},
    "params": lambda w: {"params": w},
    "a name of one's own": lambda w: {"my_weights": w},
    "twice": lambda w: {"checkpoint": {"model": {"state_dict": w}}},
    "DataParallel": lambda w: under("module.", w),
    "DataParallel within": lambda w: {
        k.replace("layer1.", "layer1.module."): v for k, v in w.items()
    },
    "compiled": lambda w: under("_orig_mod.module.", w),
    "compiled blocks": lambda w: {k.replace(".0.", ".0._orig_mod."): v for k, v in w.items()},
    "other keys beside": lambda w: {"state_dict": under("module.", w) | {"epoch": torch.tensor(3)}},
    "thop": lambda w: w | {"total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
    "averaged": lambda w: {"swa": under("module.", w) | {"n_averaged": torch.tensor(5)}},
    "without counters": lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
    "Lightning": lambda w: {
        "state_dict": under("model.", w)
        | {"criterion.weight": torch.ones(10), "train_acc.confmat": torch.ones(10, 10)},
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning without a bow": lambda w: {
        "state_dict": under("net.", w) | {"loss_fn.proj.weight": torch.ones(10, 64)}
    },
    "a list": lambda w: [w, {"epoch": 3}],
    "float64": lambda w: {k: v.double() if v.is_floating_point() else v for k, v in w.items()},
    "parameters": lambda w: {
        k: nn.Parameter(v) if v.is_floating_point() else v for k, v in w.items()
    },
    "numpy": lambda w: {k: v.numpy() for k, v in w.items()},
    "a backbone and a head": lambda w: {
        "state_dict": {
            (f"head.{k.partition('.')[2]}" if "classifier" in k else f"backbone.{k}"): v
            for k, v in w.items()
        }
    },
    "normalised inside": lambda w: (
        under("1.", w) | {"0.mean": torch.ones(3), "0.std": torch.ones(3)}
    ),
    "transposed in memory": lambda w: {
        k: v.t().contiguous().t() if v.dim() == 2 else v for k, v in w.items()
    },
    "pruned": lambda w: (
        {k: v for k, v in w.items() if k != "conv1.weight"}
        | {"conv1.weight_orig": w["conv1.weight"], "conv1.weight_mask": torch.ones(16, 3, 3, 3)}
    ),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found(weights: Weights, tmp_path: Path, wrapping: str) -> None:
    content = WRAPPINGS[wrapping](dict(weights))
    assert same(fit(read(content, tmp_path)), weights)


def test_half_precision(weights: Weights, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
        found = fit(read(half, tmp_path))
        assert found.network.classifier.weight.dtype == torch.float32
        assert torch.equal(found.network.classifier.weight, half["classifier.weight"].float())


CHOICES = {
    "moving average": (lambda w, o: {"state_dict": o, "state_dict_ema": w}, "state_dict_ema"),
    "params_ema": (
        lambda w, o: {"params": o, "params_ema": under("module.", w)},
        "params_ema.module",
    ),
    "in one mapping": (lambda w, o: under("model.", o) | under("ema_model.", w), "ema_model"),
    "student": (
        lambda w, o: {"model": under("teacher.", o) | under("student.", w)},
        "model.student",
    ),
    "two of a list": (lambda w, o: under("0.", w) | under("1.", o), "0"),
    "not the beginning": (lambda w, o: {"init_state_dict": o, "state_dict": w}, "state_dict"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_of_several_sets_one_is_chosen_and_said(
    weights: Weights, tmp_path: Path, case: str
) -> None:
    make, place = CHOICES[case]
    found = fit(read(make(dict(weights), other(weights)), tmp_path))
    assert same(found, weights)
    assert found.place.startswith(f"{place} (also there: ")


def test_a_distiller_holds_the_network_that_was_asked_for(weights: Weights, tmp_path: Path) -> None:
    large = create_model("resnet20", 10, SHAPE).state_dict()
    content = {"model": under("module.student.", weights) | under("module.teacher.", large)}
    checkpoint = read(content, tmp_path)
    found = fit(checkpoint)
    assert same(found, weights)
    assert found.left_out == (f"teacher ({len(large)})",)
    assert same(fit_weights("resnet20", checkpoint, 10, SHAPE), large)


def test_what_was_left_out_is_said(weights: Weights, tmp_path: Path) -> None:
    content = WRAPPINGS["Lightning"](dict(weights)) | {}
    content["state_dict"] |= {"model.layer1.total_ops": torch.zeros(1)}
    found = fit(read(content, tmp_path))
    assert found.left_out == ("total_ops (1)", "criterion (1)", "train_acc (1)")
    assert found.place == "state_dict.model"
    assert found.certain


def test_an_unknown_head_beside_makes_it_uncertain(weights: Weights, tmp_path: Path) -> None:
    content = dict(weights) | {"embed_s.weight": torch.ones(128, 64)}
    found = fit(read(content, tmp_path))
    assert (found.certain, found.left_out) == (False, ("embed_s (1)",))
