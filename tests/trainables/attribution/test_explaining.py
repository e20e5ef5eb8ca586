"""What `explain` promises whoever calls it: refusals by name, and a network that stays as it is."""

from contextlib import nullcontext

import pytest
import torch
from lively import SHAPE, assert_as_it_was, images, made, state_of

from trainables.attribution.explainer import Explainer
from trainables.attribution.explaining import check_explainers, explain
from trainables.attribution.registry import EXPLAINERS, resolve_explainers
from trainables.errors import UserError

GRAD_CAM = resolve_explainers("grad_cam", {})
TARGETS = torch.tensor([3, 0, 7, 7])


class Failing(Explainer):
    """Raises in the middle of a pass."""

    Config = type("Config", (), {})

    def attribute(self, pixels, targets):
        self.network(pixels)
        raise RuntimeError("in the middle")


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_as_it_was(fails, monkeypatch):
    """Its flags too, which need not be alike; nor is its graph, its gradient or a hook touched."""
    network = made("resnet8")
    network.layer1.eval()
    network.conv1.weight.requires_grad_(False)
    network.layer2.register_forward_hook(lambda module, inputs, output: None)
    network(images(2)).logits.sum().backward()
    before, drawn = state_of(network), torch.get_rng_state()
    asked = GRAD_CAM
    if fails:
        monkeypatch.setattr(EXPLAINERS, "_own", EXPLAINERS._own | {"failing": Failing})
        asked = GRAD_CAM | {"failing": None}
    with pytest.raises(RuntimeError, match="in the middle") if fails else nullcontext():
        explain(network, asked, images(4), TARGETS)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert_as_it_was(network, before)


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_maps_do_not_depend_on_the_mode_around(around):
    network = made("resnet8")
    expected = explain(network, GRAD_CAM, images(4), TARGETS)["grad_cam"]
    with around:
        found = explain(network, GRAD_CAM, images(4), TARGETS)["grad_cam"]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, expected)


def test_batches_are_put_together_again():
    network = made("resnet8")
    whole = explain(network, GRAD_CAM, images(4), TARGETS)["grad_cam"]
    assert whole.shape == (4, 32, 32)
    parts = explain(network, GRAD_CAM, images(4), TARGETS, batch=3)["grad_cam"]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    none = explain(network, GRAD_CAM, images(4)[:0], TARGETS[:0])["grad_cam"]
    assert none.shape == (0, 32, 32)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([1]), r"expected a class \(int64\) for each of 4 images, got int64 \[1\]"),
        (torch.tensor([1, 2, 3]), r"got int64 \[3\]"),
        (torch.tensor(1), r"got int64 \[\]"),
        (torch.ones(4), r"got float32 \[4\]"),
        (torch.eye(10, dtype=torch.int64)[:4], r"got int64 \[4, 10\]"),
        (torch.tensor([1, 2, 10, -1]), "expected classes from 0 to 9, got 10"),
        (torch.tensor([1, 2, 3, -1]), "expected classes from 0 to 9, got -1"),
    ],
)
def test_targets_that_do_not_fit(targets, expected):
    network = made("resnet8")
    with pytest.raises(UserError, match=f"^targets: .*{expected}") as caught:
        explain(network, GRAD_CAM, images(4), targets)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"images: expected \[N, C, H, W\], got \(3, 32, 32\)"):
        explain(network, GRAD_CAM, images(4)[0], TARGETS)


def test_it_is_known_before_whether_a_network_can_have_an_explainer(monkeypatch):
    """All are looked at before one of them has begun."""
    network = made("resnet8")
    check_explainers(network, GRAD_CAM, SHAPE)
    begun = []

    class Counting(Failing):
        def attribute(self, pixels, targets):
            begun.append(len(pixels))
            return pixels

    monkeypatch.setattr(EXPLAINERS, "_own", EXPLAINERS._own | {"counting": Counting})
    asked = {"counting": None} | resolve_explainers("grad_cam", {"grad_cam.layer": "9"})
    for ask in (
        lambda: check_explainers(network, asked, SHAPE),
        lambda: explain(network, asked, images(4), TARGETS),
    ):
        with pytest.raises(UserError, match=r"grad_cam\.layer: expected last, a stage from 0 to 2"):
            ask()
    assert begun == []
    assert network.training


def test_explainers_by_name():
    assert [*resolve_explainers("none", {})] == [*resolve_explainers("", {})] == []
    assert [*resolve_explainers("grad_cam + grad_cam", {})] == ["grad_cam"]
    with pytest.raises(UserError, match="unknown explainer 'grad_camm'; did you mean grad_cam"):
        resolve_explainers("grad_camm", {})
    with pytest.raises(UserError, match=r"'grad_cam.layr'; did you mean grad_cam.layer"):
        resolve_explainers("grad_cam", {"grad_cam.layr": "last", "lrp.rule": "none of its own"})
