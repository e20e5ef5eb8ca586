"""An explainer of another package: listed, asked for, and held to what every explainer promises."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from foreign import install, present

from orchestrator.cli import main
from trainables.attribution.explaining import check_explainers, explain
from trainables.attribution.registry import EXPLAINERS, resolve_explainers
from trainables.errors import UserError
from trainables.models import create_model

THEIRS = '''
"""Occlusion: how much of a class's logit is lost where a patch is grey (Zeiler 2014)."""

from dataclasses import dataclass

import torch

from trainables.attribution.explainer import Explainer
from trainables.errors import UserError
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    patch: int = setting(16, "pixels of a side", at_least=1)


class Occlusion(Explainer):
    signed = True
    Config = Config

    def check(self, images):
        if min(images.shape[2:]) < self.config.patch:
            raise UserError(f"occlusion.patch: {self.config.patch} pixels are more than an image")

    @torch.no_grad()
    def attribute(self, images, targets):
        def logits(pixels):
            return self.network(pixels).logits.gather(1, targets[:, None])[:, 0]

        whole, size = logits(images), self.config.patch
        found = torch.zeros_like(images[:, :1])
        for top in range(0, images.shape[2], size):
            for left in range(0, images.shape[3], size):
                there = (..., slice(top, top + size), slice(left, left + size))
                grey = images.clone()
                grey[there] = 0
                found[there] = (whole - logits(grey))[:, None, None, None]
        return found


class Careless(Explainer):
    """Divides by what it sees in the batch."""

    Config = Config

    def attribute(self, images, targets):
        return images.abs() / images.abs().max()
'''

POINTS = """
[kdsweep.explainers]
occlusion = theirs_explain:Occlusion
careless = theirs_explain:Careless
grad_cam = theirs_explain:Careless
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return install(tmp_path / "site", "theirs_explain", THEIRS, POINTS)


@pytest.fixture
def installed(site: Path) -> Iterator[None]:
    with present(site, "theirs_explain"):
        yield


def test_it_is_listed_and_explains(installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explainers"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^occlusion +how much of a class's logit is lost", listed, re.MULTILINE)
    assert "theirs_explain" not in sys.modules
    assert main(["explainers", "occlusion"]) == 0
    shown = capsys.readouterr().out
    assert re.search(
        r"^occlusion\.patch +16 +a whole number >= 1 .*pixels of a side", shown, re.MULTILINE
    )
    assert "positive and negative" in shown
    assert EXPLAINERS["grad_cam"].__module__ == "trainables.attribution.grad_cam"

    torch.manual_seed(0)
    network, pixels = create_model("resnet8", 10, (3, 32, 32)), torch.randn(2, 3, 32, 32)
    asked = resolve_explainers("grad_cam+occlusion", {"occlusion.patch": 8})
    maps = explain(network, asked, pixels, torch.tensor([1, 2]))
    assert [*maps] == ["grad_cam", "occlusion"]
    patches = maps["occlusion"].unfold(1, 8, 8).unfold(2, 8, 8).flatten(3)
    assert torch.equal(patches.amin(3), patches.amax(3))
    assert len(patches[0, :, :, 0].unique()) == 16
    with pytest.raises(UserError, match=r"occlusion\.patch: 16 pixels are more than an image"):
        check_explainers(network, resolve_explainers("occlusion", {}), (3, 8, 8))


def test_it_is_held_to_what_every_explainer_promises(site: Path) -> None:
    """By the conformance suite, in a process that finds the package by itself."""
    root = Path(__file__).parents[1]
    suite = root / "tests" / "trainables" / "attribution" / "test_conformance.py"
    wanted = "(occlusion or careless) and (resnet8 or described or separate or mode or exception)"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", str(suite)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(site), str(root)]),
            "PYTEST_ADDOPTS": f"-n 0 -k '{wanted}'",
        },
    )
    told = {
        test: end
        for end, test in re.findall(r"^(PASSED|FAILED) \S+::(\S+?\])", done.stdout, re.MULTILINE)
    }
    alone = "test_a_map_is_of_its_image_and_class_alone"
    assert told.get(f"{alone}[occlusion-resnet8]") == "PASSED", done.stdout
    assert told["test_it_is_described[occlusion]"] == "PASSED"
    assert told[f"{alone}[careless-resnet8]"] == "FAILED", "its maps depend on the batch"
    assert {end for test, end in told.items() if "occlusion" in test} == {"PASSED"}
