"""The shortcuts that residual networks hand out: what they are, and that they cost nothing."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models import Network, Outputs, create_model, output_shapes
from trainables.models.eca import VARIANTS

CIFAR = (3, 32, 32)
RESNETS = [
    "resnet8",
    "resnet20",
    "resnet8_zeropad",
    "resnet8x4",
    "resnet18_x0.25",
    "resnet50_x0.125",
    *(f"resnet14{variant}" for variant in VARIANTS),
    *(f"resnet50{variant}_x0.125" for variant in VARIANTS),
]
WIDE = ["wrn_10_1", "wrn_16_1", "wrn_16_2", "wrn_10_0.5"]


def built(name: str, training: bool) -> Network:
    torch.manual_seed(0)
    return create_model(name, 10, CIFAR).train(training)


def passed(model: Network) -> tuple[Outputs, dict[str, Tensor]]:
    """Outputs for a batch, and what every module returned, as it was then."""
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: seen.update({name: output.clone()})

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    outputs = model(torch.randn(4, *CIFAR, generator=torch.Generator().manual_seed(1)))
    for handle in handles:
        handle.remove()
    return outputs, seen


def normalised(x: Tensor, norm: nn.BatchNorm2d, training: bool) -> Tensor:
    """Without touching the running statistics."""
    mean, var = (None, None) if training else (norm.running_mean, norm.running_var)
    return F.batch_norm(x, mean, var, norm.weight, norm.bias, training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RESNETS)
def test_of_a_resnet(name: str, training: bool) -> None:
    """Each is the projection of what entered the stage, and the sum is made of it."""
    model = built(name, training)
    outputs, seen = passed(model)
    entering = [seen["relu"], *outputs.stages]
    assert len(outputs.shortcuts) == len(outputs.stages)
    for i, shortcut in enumerate(outputs.shortcuts):
        path, x = f"layer{i + 1}.0", entering[i]
        parallel = "-eca_parallel" in name and i == 0
        projection = model.get_submodule(f"{path}.downsample" + (".0" if parallel else ""))
        if isinstance(projection, nn.Sequential):
            expected = F.conv2d(x, projection[0].weight, stride=2 if i else 1)
            expected = normalised(expected, projection[1], training)
        elif isinstance(projection, nn.Identity):
            assert i == 0
            expected = x
        else:
            extra = (shortcut.shape[1] - x.shape[1]) // 2
            expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))
        if parallel:
            weight = model.get_submodule(f"{path}.downsample.1.conv").weight
            gate = F.conv1d(expected.mean((2, 3))[:, None], weight, padding=1).sigmoid()
            expected = expected + gate[:, 0, :, None, None]
        torch.testing.assert_close(shortcut, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "resnet8_zeropad", "resnet8-eca_parallel"])
def test_enters_the_sum(name: str) -> None:
    """One block per stage: the stage is the rectified sum of branch and shortcut."""
    outputs, seen = passed(built(name, True))
    for i, (stage, shortcut) in enumerate(zip(outputs.stages, outputs.shortcuts, strict=True)):
        branch = seen[f"layer{i + 1}.0.bn2"]
        assert torch.equal(stage, (branch + shortcut).relu())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", WIDE)
def test_of_a_wide_resnet(name: str, training: bool) -> None:
    model = built(name, training)
    outputs, seen = passed(model)
    for i, x in enumerate([seen["conv1"], *outputs.stages[:2]]):
        block = model.get_submodule(f"group{i + 1}.0")
        expected = x
        if block.shortcut is not None:
            activated = normalised(x, block.bn1, training).relu()
            expected = F.conv2d(activated, block.shortcut.weight, stride=2 if i else 1)
        torch.testing.assert_close(outputs.shortcuts[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*RESNETS, *WIDE])
def test_nothing_is_computed_twice(name: str) -> None:
    model = built(name, True)
    calls: Counter[str] = Counter()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: calls.update([path]))
    model(torch.randn(2, *CIFAR))
    assert set(calls) == {path for path, _ in model.named_modules()}
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("name", [*RESNETS, *WIDE])
def test_its_gradient_goes_past_the_branch(name: str) -> None:
    model = built(name, True)
    outputs, _ = passed(model)
    outputs.shortcuts[-1].square().mean().backward()
    reached = {key for key, weight in model.named_parameters() if weight.grad is not None}
    last = "group3.0" if name in WIDE else f"layer{len(outputs.stages)}.0"
    assert "conv1.weight" in reached
    assert not reached & {f"{last}.conv1.weight", f"{last}.conv2.weight", "classifier.weight"}


@pytest.mark.parametrize("name", ["vgg11", "mobilenetv2", "mobilenetv2_s2", "timm:resnet18"])
def test_other_networks_have_none(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 10, CIFAR)
    assert output_shapes(model, CIFAR).shortcuts == ()
