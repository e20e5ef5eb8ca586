"""Networks of timm and torchvision."""

import pytest
import torch
from torch import nn

from trainables.errors import UserError
from trainables.models import canonical_name, create_model, output_shapes
from trainables.models.external import External, published_statistics, without_tag

SHAPE = (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        (
            "torchvision:resnet18",
            ((64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)),
        ),
        # A block that halves the resolution still has a convolution at the full one.
        (
            "torchvision:resnet50",
            ((64, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)),
        ),
        # Squeeze-and-excitation branches are 1x1 and no stage.
        (
            "torchvision:efficientnet_b0",
            ((16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (1280, 2, 2)),
        ),
        # As timm says it: the last block before the convolution that widens it.
        (
            "timm:efficientnet_b0",
            ((16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)),
        ),
        # A transformer keeps its resolution: a stage per quarter of its blocks.
        ("timm:vit_tiny_patch16_224", ((192, 4, 4),) * 4),
        (
            "timm:swin_tiny_patch4_window7_224",
            ((96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)),
        ),
        # The norm behind global pooling works on one pixel and is no stage.
        ("torchvision:convnext_tiny", ((96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2))),
        # Adaptive pooling to 7x7 enlarges small maps and is no stage.
        (
            "torchvision:vgg11_bn",
            ((64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4), (512, 2, 2)),
        ),
    ],
)
def test_stages(name: str, stages: tuple[tuple[int, int, int], ...]) -> None:
    with torch.device("meta"):
        assert output_shapes(create_model(name, 10, SHAPE), SHAPE).stages == stages


def test_stage_is_what_the_network_computes() -> None:
    torch.manual_seed(0)
    model = create_model("torchvision:resnet18", 10, SHAPE).eval()
    images = torch.randn(2, *SHAPE)
    backbone = model.backbone
    x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
    x = backbone.layer2(backbone.layer1(x))
    torch.testing.assert_close(model(images).stages[2], x)


def test_last_stage_of_one_pixel_is_kept_but_global_pooling_is_none() -> None:
    with torch.device("meta"):
        stages = output_shapes(
            create_model("torchvision:resnet18", 10, (3, 32, 32)), (3, 32, 32)
        ).stages
    assert stages[-1] == (512, 1, 1)
    with torch.device("meta"):
        stages = output_shapes(create_model("torchvision:resnet18", 10, SHAPE), SHAPE).stages
    assert stages[-1] == (512, 2, 2)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "efficientnet_b0", "vit_tiny_patch16_224"]
)
def test_networks_of_timm_tell_what_they_compute(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(f"timm:{name}", 10, SHAPE).eval()
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        outputs = model(images)
        assert torch.equal(outputs.logits, model.backbone(images))
        assert torch.equal(outputs.logits, model.classifier(outputs.embedding))
        early = model(images, depth=2)
    assert early.logits is None
    assert len(early.stages) == 2
    for one, other in zip(early.stages, outputs.stages, strict=False):
        assert torch.equal(one, other)


def test_the_last_stage_of_a_transformer_is_its_last_block() -> None:
    torch.manual_seed(0)
    model = create_model("timm:vit_tiny_patch16_224", 10, SHAPE).eval()
    seen = []
    model.backbone.blocks[-1].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        last = model(torch.randn(2, *SHAPE)).stages[-1]
    assert torch.equal(last.flatten(2).mT, seen[0][:, 1:])  # without the class token


def test_a_network_that_tells_only_a_part_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    make = timm.create_model

    def mute(*args: object, **settings: object) -> nn.Module:
        network = make(*args, **settings)

        def refused(*args: object, **settings: object) -> None:
            raise AssertionError("Output format must be NLC.")

        network.forward_intermediates = refused
        return network

    monkeypatch.setattr(timm, "create_model", mute)
    with torch.device("meta"):
        traced = create_model("timm:vit_tiny_patch16_224", 10, SHAPE)
        assert output_shapes(traced, SHAPE).stages == ((192, 4, 4),)


class SharedActivation(nn.Module):
    """One ReLU for two resolutions: its last output is not the feature of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.act(self.second(self.act(self.first(images))))
        return self.head(x.mean((2, 3)))


def test_shared_module_counts_where_it_runs_last() -> None:
    model = External(SharedActivation(), SHAPE)
    first, second = model(torch.randn(2, *SHAPE)).stages
    assert (first.shape, second.shape) == ((2, 4, 64, 64), (2, 8, 32, 32))
    assert first.min() < 0
    assert second.min() == 0


def test_no_hook_stays() -> None:
    model = create_model("torchvision:resnet18", 10, SHAPE).eval()
    model(torch.randn(1, *SHAPE))
    with pytest.raises(RuntimeError):
        model(torch.randn(1, 5, 64, 64))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    "name", ["torchvision:googlenet", "torchvision:vit_b_16", "torchvision:regnet_y_400mf"]
)
def test_special_constructors(name: str) -> None:
    shape = (1, 64, 64)
    with torch.device("meta"):
        model = create_model(name, 7, shape).train()
        assert model(torch.empty(2, *shape)).logits.shape == (2, 7)


def test_refusals_name_the_model() -> None:
    with pytest.raises(UserError, match=r"torchvision:vit_b_32.*\(3, 40, 40\): .*patch"):
        create_model("torchvision:vit_b_32", 10, (3, 40, 40))
    with pytest.raises(UserError, match=r"torchvision:inception_v3.*\(3, 32, 32\)"):
        create_model("torchvision:inception_v3", 10, (3, 32, 32))
    for name in ("torchvision:squeezenet1_1", "timm:deit_tiny_distilled_patch16_224"):
        with pytest.raises(UserError, match=f"{name}.*one linear layer"):
            create_model(name, 10, SHAPE)


@pytest.mark.parametrize(
    "name", ["timm:resnet18.a1_in1k", "timm:resnet18.", "timm:resnet18.no_such"]
)
def test_weights_that_a_name_asks_for_are_refused(name: str) -> None:
    """A study would find two configs of one network."""
    for use in (canonical_name, lambda name: create_model(name, 10, SHAPE)):
        with pytest.raises(UserError, match=r"not there.*write timm:resnet18, or import") as caught:
            use(name)
        assert len(str(caught.value)) < 300
    assert without_tag(name) == "timm:resnet18"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:ResNet18", "nearest: resnet18"),
        ("timm:tf_efficientnet_b0_ns", "an old name; write timm:tf_efficientnet_b0"),
        ("timm:hf_hub:timm/resnet18.a1_in1k", "write timm:resnet18"),
        ("timm:timm/resnet18.a1_in1k", "write timm:resnet18"),
        ("timm:", "expected a name of timm"),
        ("torchvision:ResNet18", "nearest: resnet18"),
    ],
)
def test_other_names_of_a_network_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        create_model(name, 10, SHAPE)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        ("timm:resnet18", IMAGENET),
        ("timm:resnet18.a1_in1k", IMAGENET),
        ("timm:vit_base_patch16_224.augreg_in21k", HALF),
        ("torchvision:resnet18", IMAGENET),
        ("resnet18", None),
    ],
)
def test_statistics_of_published_weights(name: str, statistics: object) -> None:
    assert published_statistics(name) == statistics


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet18.a1_in1", "unknown tag of timm:resnet18 'a1_in1'; did you mean a1_in1k"),
        ("timm:resnet1899", "the library has no 'resnet1899'"),
        ("torchvision:resnet1899", "the library has no 'resnet1899'"),
    ],
)
def test_statistics_of_unknown_weights(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        published_statistics(name)
