"""What every network promises, checked on one small member of every family."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from trainables.compression.measure import count_macs
from trainables.models import Network, create_model, output_shapes
from trainables.models.outputs import Outputs

SMALL = [
    "resnet8",
    "resnet8_zeropad",
    "resnet18_x0.125",
    "resnet50_x0.0625",
    "resnet8-eca",
    "resnet18-eca_parallel_x0.125",
    "resnet50-eca_last_x0.0625",
    "wrn_10_0.5",
    "mobilenetv2_x0.25",
    "mobilenetv2-minus15",
    "mobilenetv2_s2_x0.25",
    "vgg11_x0.125",
    "vgg11_gap_x0.125",
    "torchvision:shufflenet_v2_x0_5",
    "timm:mobilenetv3_small_050",
]
SHAPE = (3, 32, 32)


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, classes: int = 10, shape: tuple[int, int, int] = SHAPE) -> Network:
    torch.manual_seed(0)
    return create_model(name, classes, shape)


def images(batch: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def averages(outputs: Outputs) -> bool:
    """Whether the embedding is the last map's mean, by the numbers."""
    means = outputs.stages[-1].mean(dim=(2, 3))
    same = means.shape == outputs.embedding.shape
    return same and torch.allclose(means, outputs.embedding, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("classes", "channels"), [(10, 3), (100, 1)])
def test_shapes(name: str, classes: int, channels: int) -> None:
    shape = (channels, 32, 32)
    model = build(name, classes, shape).eval()
    outputs = model(images(2, shape))
    assert outputs.logits.shape == (2, classes)
    assert isinstance(model.classifier, nn.Linear)
    assert outputs.embedding.shape == (2, model.classifier.in_features)
    assert outputs.stages
    sizes = [stage.shape[2] * stage.shape[3] for stage in outputs.stages]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    shapes = output_shapes(model, shape)
    assert shapes.classes == classes
    assert shapes.embedding == outputs.embedding.shape[1]
    assert shapes.stages == tuple(tuple(stage.shape[1:]) for stage in outputs.stages)
    assert shapes.shortcuts == tuple(tuple(one.shape[1:]) for one in outputs.shortcuts)
    assert shapes.shortcuts in ((), shapes.stages)
    assert shapes.pooled == averages(outputs)


def test_a_batch_of_one_does_not_depend_on_its_neighbours(name: str) -> None:
    model = build(name).eval()
    batch = images(3)
    torch.testing.assert_close(
        model(batch[:1]).logits, model(batch).logits[:1], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("training", [False, True])
def test_logits_are_the_classifier_of_the_embedding(name: str, training: bool) -> None:
    model = build(name).train(training)
    outputs = model(images(4))
    torch.testing.assert_close(outputs.logits, model.classifier(outputs.embedding))


def test_gradients_reach_every_parameter(name: str) -> None:
    model = build(name).train()
    # Odd weights: the plain sum of BatchNorm's output is constant and has no gradient. Several
    # draws, because dropout and dead ReLUs may silence a narrow layer once.
    for seed in range(3):
        batch = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(seed))
        logits = model(batch).logits
        (logits * torch.arange(logits.numel()).view_as(logits).sin()).sum().backward()
    silent = [
        key
        for key, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.abs().sum() > 0
    ]
    assert silent == []


def test_stages_lie_on_the_way_to_the_logits(name: str) -> None:
    model = build(name).eval()
    outputs = model(images(2))
    loss = (outputs.logits * torch.arange(20.0).view(2, 10).cos()).sum()
    gradients = torch.autograd.grad(loss, outputs.stages, allow_unused=True)
    assert all(gradient is not None for gradient in gradients)
    assert gradients[-1].abs().sum() > 0


@contextmanager
def finished(model: Network) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """The parts of a network that ran inside the context, in the order of finishing."""
    seen: list[tuple[nn.Module, Tensor]] = []
    handles = [
        part.register_forward_hook(lambda part, _, output: seen.append((part, output)))
        for part in model.modules()
        if part is not model
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def test_it_stops_behind_any_stage(name: str) -> None:
    model = build(name).eval()
    whole = model(images(2))
    for depth in range(1, len(whole.stages) + 1):
        with finished(model) as seen:
            early = model(images(2), depth)
        expected = whole
        if ":" not in name or model.told:  # a network that is traced cannot stop
            expected = Outputs.early(whole.stages[:depth], whole.shortcuts[:depth])
            assert early.logits is None
            assert early.embedding is None
            assert torch.equal(seen[-1][1], early.stages[-1]), "nothing runs behind the last stage"
            assert model.classifier not in [part for part, _ in seen]
        torch.testing.assert_close(early, expected, rtol=0, atol=0)


def test_autocast_to_bfloat16(name: str) -> None:
    model = build(name).eval()
    exact = model(images(2)).logits
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images(2))
    assert outputs.logits.dtype == torch.bfloat16
    assert (outputs.logits.float() - exact).abs().max() < 0.1 * exact.abs().max() + 0.05


def test_state_dict_round_trip(name: str) -> None:
    model = build(name)
    model(images(4))  # BatchNorm statistics differ from their initial values
    twin = create_model(name, 10, SHAPE)
    twin.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(
        twin.eval()(images(2)).logits, model.eval()(images(2)).logits, rtol=0, atol=0
    )


def test_a_deep_copy_is_independent(name: str) -> None:
    model = build(name).eval()
    before = model(images(2))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.classifier.weight.zero_()
        for weight in twin.parameters():
            weight.mul_(0.9)
    after = model(images(2))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    outputs = twin(images(2))
    torch.testing.assert_close(outputs.logits, twin.classifier(outputs.embedding))
    assert not torch.equal(outputs.stages[0], before.stages[0])


def test_weights_follow_the_global_seed_alone(name: str) -> None:
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(1)
    other = create_model(name, 10, SHAPE).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_output_shapes_on_meta_and_without_traces(name: str) -> None:
    model = build(name).train()
    next(model.children()).eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    shapes = output_shapes(model, SHAPE)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.device("meta"):
        on_meta = create_model(name, 10, SHAPE)
    assert all(weight.is_meta for weight in on_meta.parameters())
    assert output_shapes(on_meta, SHAPE) == shapes
    assert count_macs(on_meta, SHAPE) == count_macs(model, SHAPE)


def test_other_image_sizes(name: str) -> None:
    shape = (3, 40, 56)
    model = build(name, shape=shape).eval()
    assert model(images(1, shape)).logits.shape == (1, 10)
