"""A teacher that is trained on from torchvision's weights, below a head of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from search_spaces.load import parse_study
from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.errors import UserError
from trainables.models.registry import create_model
from trainables.models.weights import read_network
from trainables.recipes import recipe
from trainables.teacher_training import TeacherTraining
from trainables.teachers.pretrained import fingerprint_of, read_features, told
from trainables.teachers.teacher import teacher_folder

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def photographs(size: int, channels: int = 3) -> Dataset:
    draw = torch.Generator().manual_seed(0)
    shape = (8, channels, size, size)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    labels = (torch.rand(8, 20, generator=draw) < 0.3).to(torch.uint8)
    content = Content.measure(
        *(tuple(f"class{k}" for k in range(20)), Images(pixels, labels), Images(pixels, labels)),
        task="multi-label",
    )
    return content.dataset("photographs", crop_padding=0, flip=True)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """torchvision's own network, with random features; the 500 MB of its head hold one number."""
    with torch.device("meta"):
        network = torchvision.models.vgg16_bn()
    network.features.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for module in network.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.normal_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                nn.init.uniform_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def file(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    state = {
        name: torch.zeros(1).expand(value.shape) if value.is_meta else value
        for name, value in theirs.state_dict().items()
    }
    assert [*state][-2:] == ["classifier.6.weight", "classifier.6.bias"]
    path = tmp_path_factory.mktemp("weights") / "vgg16_bn-6c64b313.pth"
    torch.save(state, path)
    return str(path)


def test_its_features_are_torchvisions_and_its_head_is_fresh(theirs: nn.Module, file: str) -> None:
    dataset = photographs(64)
    fit = read_features(file, "vgg16", dataset)
    network, images = fit.network.eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images).embedding, theirs.features(images).flatten(1))
    head = network.classifier
    assert head.weight.shape == (20, 512 * 4)
    assert 0.008 < head.weight.std().item() < 0.012
    assert torch.equal(read_features(file, "vgg16", dataset).network.classifier.weight, head.weight)
    line = told(fit, file)
    assert "matched by name" in line
    assert "head is fresh (left out: classifier.0, classifier.3, classifier.6)" in line


@pytest.mark.parametrize(
    ("model", "channels", "expected"),
    [
        ("vgg19", 3, "a vgg16|missing for vgg19|is .* in the file"),
        ("vgg16_x0.5", 3, r"features.0.weight is 64x3x3x3 in the file, 32x3x3x3 in vgg16_x0.5"),
        ("vgg16", 1, "input channels in the file|features.0.weight is 64x3x3x3"),
        ("resnet20", 3, "missing for resnet20|is .* in"),
        ("vgg16_gap", 3, "names of its layers are not known for vgg16_gap|missing for vgg16_gap"),
    ],
)
def test_a_file_of_another_network_is_refused(
    file: str, model: str, channels: int, expected: str
) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        read_features(file, model, photographs(64, channels))
    assert "vgg16_bn-6c64b313.pth" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path, quick: Quick) -> None:
    config = quick(student="vgg11_x0.0625", start="weights:nowhere.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth: No such file"):
        recipe(config, None)


def test_a_network_with_several_linear_layers_has_no_head(file: str) -> None:
    with pytest.raises(UserError, match="torchvision:alexnet has 3 linear layers"):
        read_features(file, "torchvision:alexnet", photographs(64))


def study(teacher: dict[str, Any]) -> Any:
    return parse_study(
        {
            "name": "s",
            "dataset": "digits",
            "teacher": teacher,
            "fixed": {"student": "resnet8", "method": "kd"},
        }
    )


def test_a_study_says_so() -> None:
    config = study({"model": "vgg16", "weights": "v.pth"}).teacher_config()
    assert config.start == "weights:v.pth"
    with pytest.raises(UserError, match="imported teacher takes no weights"):
        study({"name": "mine", "weights": "v.pth"})


def test_the_teachers_of_pairs_share_one() -> None:
    pairs = {
        "plain": {"teacher": "vgg16", "student": "vgg16_x0.5"},
        "own": {"teacher": {"model": "vgg13", "weights": "w.pth"}, "student": "vgg11"},
    }
    content = {"name": "s", "dataset": "digits", "pairs": pairs, "sampler": "grid"}
    shared = parse_study(content | {"teacher": {"epochs": 2, "weights": "v.pth"}})
    configs = [shared.teacher_config(one, key) for key, one in shared.all_teachers().items()]
    assert [config.start for config in configs] == ["weights:v.pth", "weights:w.pth"]


def small_file(folder: Path, classes: int = 7) -> str:
    """Of a small network of ours, for data of other classes."""
    network = create_model("resnet8_x0.25", classes, (1, 8, 8))
    path = folder / "features.pth"
    torch.save(network.state_dict(), path)
    return str(path)


def test_a_teacher_is_trained_on_from_it(quick: Quick, tmp_path: Path) -> None:
    """It begins with the weights, is another teacher than from scratch, says so, and is found."""
    file = small_file(tmp_path)
    config = quick(student="resnet8_x0.25", epochs=1, lr=1e-12)
    plan = recipe(config.replace(start=f"weights:{file}"), None)
    assert plan.key != recipe(config, None).key
    training = TeacherTraining(plan, str(tmp_path), None, CPU)
    row = training.run_epoch()
    assert "its head is fresh (left out: classifier)" in row["note"]
    card = training.finish()
    assert plan.find(str(tmp_path)) == card
    _, network = read_network(teacher_folder(str(tmp_path)), f"{plan.key}.safetensors")
    begun = torch.load(file)
    for name, value in network.named_parameters():
        if not name.startswith("classifier"):
            torch.testing.assert_close(value.data, begun[name], atol=1e-6, rtol=0)


def test_another_file_is_another_teacher(quick: Quick, tmp_path: Path) -> None:
    file = small_file(tmp_path)
    config = quick(student="resnet8_x0.25", start=f"weights:{file}")
    first, before = recipe(config, None), fingerprint_of(file)
    training = TeacherTraining(first, str(tmp_path), None, CPU)
    small_file(tmp_path, classes=5)
    assert fingerprint_of(file) != before
    assert recipe(config, None).key != first.key
    with pytest.raises(UserError, match="another file"):
        training.run_epoch()
