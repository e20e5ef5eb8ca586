"""Steps of somebody else: one file and its entry points, and everything knows the student."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from foreign import install, known_to_workers, present

from orchestrator.cli import main
from orchestrator.query import trials
from trainables import registry
from trainables.adopting import adopt_student
from trainables.compression.measure import count_macs, count_params
from trainables.config import TrialConfig
from trainables.data.sources import load_dataset
from trainables.job import STUDENT, Job, Run, trial_folder
from trainables.models.blueprint import Blueprint, build
from trainables.models.weights import read_card, read_network
from trainables.recipes import recipe
from trainables.teacher_training import train_teacher
from trainables.teachers.teacher import Teacher, load_teacher

CPU = torch.device("cpu")

THEIRS = '''
"""Halve, round, clip: steps of another package, and an edit."""

from dataclasses import dataclass

import torch
from torch import nn

from trainables.compression.step import Step
from trainables.errors import UserError
from trainables.models.blueprint import Edit
from trainables.models.edits import Bits, Channels
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class HalveConfig:
    amount: float = setting(0.5, "share of the inner channels that stays", above=0, at_most=1)
    when: float = setting(0.5, "share of the training before the cut", at_least=0, at_most=1)


class Halve(Step):
    """Cuts the smallest filters between the convolutions of a block."""

    Config = HalveConfig

    def __init__(self, config):
        super().__init__(config)
        self.moments = (config.when,)

    def check(self, network, image_shape):
        if not blocks(network):
            raise UserError(f"halve: {network.blueprint.label} has no residual blocks")

    def at(self, moment, scene):
        outputs, inputs = {}, {}
        for name, block in blocks(scene.network).items():
            sums = block.conv1.weight.abs().sum((1, 2, 3))
            kept = sums.topk(max(1, int(self.config.amount * len(sums)))).indices
            outputs |= {f"{name}.conv1": kept, f"{name}.{norm_behind(block)}": kept}
            inputs[f"{name}.conv2"] = kept
        return [Channels.kept(outputs, inputs)]


def blocks(network):
    return {name: m for name, m in network.named_modules() if hasattr(m, "conv2")}


def norm_behind(block):
    return "bn1" if block.bn1.num_features == block.conv1.out_channels else "bn2"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundConfig:
    amount: int = setting(4, "bits", at_least=2, at_most=8)


class Round(Step):
    """Rounds every weight to one of 2^bits - 1 multiples of its layer's step."""

    Config = RoundConfig
    moments = (1,)

    def at(self, moment, scene):
        layers = {
            name: module
            for name, module in scene.network.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear))
        }
        most = 2 ** (self.config.amount - 1) - 1
        for module in layers.values():
            step = module.weight.abs().max() / most
            module.weight.copy_((module.weight / step).round() * step)
        return [Bits.of(dict.fromkeys(layers, self.config.amount))]


@dataclass(frozen=True)
class Ceiling(Edit):
    """Activations end at a value."""

    kind = "ceiling"
    top: float

    def apply(self, network):
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.ReLU):
                network.set_submodule(name, nn.Hardtanh(0.0, self.top))

    def to_dict(self):
        return {"top": self.top}

    @classmethod
    def from_dict(cls, values):
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    amount: float = setting(0.5, "the highest activation", above=0)


class Clip(Step):
    """Gives the student a ceiling from the beginning."""

    Config = ClipConfig
    moments = (0,)

    def at(self, moment, scene):
        return [Ceiling(self.config.amount)]
'''

POINTS = """
[kdsweep.steps]
halve = steps_of_theirs:Halve
round = steps_of_theirs:Round
clip = steps_of_theirs:Clip

[kdsweep.edits]
ceiling = steps_of_theirs:Ceiling
"""

QUICK = {
    "dataset": "digits",
    "student": "resnet8_x0.5",
    "epochs": 2,
    "batch_size": 32,
    "train_fraction": 0.2,
    "lr": 0.05,
    "precision": "fp32",
    "teacher_cache": "off",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package was installed."""
    return install(tmp_path_factory.mktemp("site"), "steps_of_theirs", THEIRS, POINTS)


@pytest.fixture
def installed(site: Path) -> Iterator[None]:
    """In this process."""
    with present(site, "steps_of_theirs"):
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With a teacher of one epoch."""
    folder = str(tmp_path_factory.mktemp("results"))
    plan = recipe(TrialConfig.from_mapping(QUICK | {"student": "resnet8", "epochs": 1}), None)
    train_teacher(plan, folder, None, CPU, on_epoch=lambda row: None)
    return folder


def job(results: str, trial_id: str, **changes: Any) -> Job:
    asked = {"teacher": "resnet8", "method": "kd", "compression": "halve+round"} | changes
    config = TrialConfig.from_mapping(QUICK | asked)
    (file,) = [path.stem for path in Path(results, "teachers").glob("resnet8-*.safetensors")]
    return Job(
        config=config.to_dict(),
        sweep="s",
        trial_id=trial_id,
        results=results,
        teacher=file if config.teacher else None,
        checkpoint_seconds=0.0,
    )


def finish(run: Run) -> dict[str, Any]:
    while not run.finished:
        run.run_epoch()
    return run.row("completed")


@pytest.mark.parametrize("method", ["kd", "kd+fitnet", "at"])
def test_what_was_trained_is_what_is_measured_and_saved(
    installed: None, results: str, method: str
) -> None:
    run = Run(job(results, f"of-{method}", method=method), CPU)
    run.run_epoch()
    begun = run.row("stopped")
    row = finish(run)
    digits = load_dataset("digits")
    shape = digits.image_shape

    # The network by itself, counted by hand: inner channels 8, 16, 32 are 4, 8, 16 now.
    card, network = read_network(trial_folder(results, "s", f"of-{method}"), STUDENT)
    inner = [network.get_submodule(f"layer{i}.0.conv1").out_channels for i in (1, 2, 3)]
    assert inner == [4, 8, 16]
    whole = build(Blueprint("resnet8_x0.5"), 10, shape)
    halves = [(8, 4, 8), (8, 8, 16), (16, 16, 32)]  # channels of a block: in, lost, out
    lost = sum(9 * lost * (before + behind) + 2 * lost for before, lost, behind in halves)
    assert row["params"] == card.params == count_params(network) == count_params(whole) - lost
    assert row["macs"] == card.macs == count_macs(network, shape) < count_macs(whole, shape)
    weights = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    others = sum(
        value.numel() * value.element_size() for value in network.state_dict().values()
    ) - 4 * sum(m.weight.numel() for m in weights)
    assert row["size_bytes"] == others + sum(-(-m.weight.numel() * 4 // 8) for m in weights)
    assert all(len(m.weight.unique()) <= 15 for m in weights)
    for factor, cost in (("compression_params", "params"), ("compression_macs", "macs")):
        assert row[factor] == row[f"teacher_{cost}"] / row[cost]
    assert row["latency_ms"] > 0

    # What it is called, and what a row says of it before and after.
    assert begun["student"] == "resnet8_x0.5"
    assert begun["params"] == count_params(whole)
    assert row["student"] == card.blueprint.label == network.blueprint.label
    assert row["student"].startswith("resnet8_x0.5~")
    assert [edit.kind for edit in card.edits] == ["channels", "bits"]
    assert row["compression_kind"] == "halve+round"
    assert json.loads(row["config"])["halve"] == 0.5

    # It is read as it was tested.
    assert Teacher(network, card, CPU).score(digits.read_test()).acc == row["test_acc"]


def test_an_attempt_goes_on_behind_the_cut(installed: None, results: str) -> None:
    asked = {"method": "kd+at", "epochs": 3, "halve.when": 0.3}
    calm = finish(Run(job(results, "calm", **asked), CPU))
    stormy = job(results, "stormy", **asked)
    for _ in range(3):
        run = Run(stormy, CPU)
        assert run.note is None
        run.run_epoch()
    row = finish(Run(stormy, CPU))
    same = ("student", "train_loss", "val_loss", "val_acc", "test_acc", "params", "term_losses")
    assert {key: row[key] for key in same} == {key: calm[key] for key in same}
    prints = [
        read_card(trial_folder(results, "s", name), STUDENT).fingerprint
        for name in ("calm", "stormy")
    ]
    assert prints[0] == prints[1]


def test_a_compressed_student_teaches(installed: None, results: str) -> None:
    row = finish(Run(job(results, "upper"), CPU))
    card = adopt_student(results, "s", "upper", "halved")
    assert adopt_student(results, "s", "upper", "halved") == card
    teacher = load_teacher(results, "halved", "cpu")
    assert teacher.network.blueprint == card.blueprint
    assert teacher.score(load_dataset("digits").read_test()).acc == row["test_acc"]
    lower = job(results, "lower", compression="explicit", method="kd+fitnet", student="resnet8")
    taught = finish(Run(Job(**lower.to_dict() | {"teacher": "halved"}), CPU))
    assert (taught["teacher"], taught["teacher_params"]) == ("halved", row["params"])
    assert taught["compression_params"] == row["params"] / taught["params"]


def test_without_the_package_its_networks_are_read(
    installed: None, results: str, site: Path
) -> None:
    """The steps are theirs, but what they did is said in words of ours."""
    finish(Run(job(results, "alone"), CPU))
    sys.path.remove(str(site))
    registry._others.cache_clear()
    network = read_network(trial_folder(results, "s", "alone"), STUDENT)[1]
    assert network.get_submodule("layer1.0.conv1").out_channels == 4


def test_an_edit_of_theirs(installed: None, results: str, site: Path) -> None:
    row = finish(Run(job(results, "clipped", compression="clip+halve", clip=0.5), CPU))
    folder = trial_folder(results, "s", "clipped")
    card, network = read_network(folder, STUDENT)
    assert [edit.kind for edit in card.edits] == ["ceiling", "channels"]
    assert (
        Teacher(network, card, CPU).score(load_dataset("digits").read_test()).acc
        == (row["test_acc"])
    )
    images = torch.randn(2, 1, 8, 8)
    assert max(float(stage.max()) for stage in network.eval()(images).stages) == 0.5
    sys.path.remove(str(site))
    registry._others.cache_clear()
    with pytest.raises(ValueError, match=f"{STUDENT}: unknown edit 'ceiling'"):
        read_network(folder, STUDENT)


def test_it_is_listed_and_held_to_what_every_step_promises(
    site: Path, installed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the conformance suite, in a process that finds the package by itself."""
    assert main(["compressions"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert {"halve", "round", "clip"} <= {line.split()[0] for line in listed if line.strip()}
    assert main(["compressions", "halve"]) == 0
    assert "share of the inner channels that stays" in capsys.readouterr().out
    root = Path(__file__).parents[1]
    paths, wanted = [str(site), str(root)], "-k 'halve or round or clip'"
    suite = root / "tests" / "trainables" / "compression" / "test_conformance.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rp", str(suite)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTEST_ADDOPTS": wanted},
    )
    assert done.returncode == 0, done.stdout
    for name in ("halve", "round", "clip"):
        line = rf"^PASSED .*::test_equal_seeds_give_equal_networks\[{name}\]$"
        assert re.search(line, done.stdout, re.MULTILINE), name


def test_a_student_on_which_it_cannot_work(installed: None, results: str) -> None:
    with pytest.raises(ValueError, match=r"halve: mobilenetv2_x0\.25 has no residual blocks"):
        Run(job(results, "refused", student="mobilenetv2_x0.25"), CPU)


@pytest.mark.slow
def test_a_sweep_and_a_trial_of_it_again(
    site: Path,
    installed: None,
    sites: Path,
    cluster: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In processes of Ray; what comes after it in this one."""
    fixed = {key: value for key, value in QUICK.items() if key not in ("dataset", "student")}
    study = {
        "name": "small",
        "dataset": "digits",
        "teacher": {"model": "resnet8", "epochs": 1},
        "fixed": fixed | {"student": "resnet8_x0.5", "method": "kd", "round": 3},
        "dimensions": {"compression": ["explicit", "halve+round"], "halve": [0.25, 0.5]},
        "sampler": "grid",
    }
    file, results = tmp_path / "small.yaml", str(tmp_path / "results")
    file.write_text(yaml.safe_dump(study, sort_keys=False))

    def said(*words: str) -> str:
        capsys.readouterr()
        assert main([*words, "--results", results]) == 0
        return capsys.readouterr().out

    said("teacher", "train", str(file))
    with known_to_workers(site, sites):
        said("run", str(file), "--max-concurrent", "1", *cluster)
    rows = {row["params"]: row for row in trials(results).to_dict("records")}
    assert len(rows) == 3
    smallest, _, whole = (rows[params] for params in sorted(rows))
    assert whole["student"] == "resnet8_x0.5"
    assert smallest["student"].startswith("resnet8_x0.5~")
    assert smallest["compression_bytes"] > 4 * whole["compression_bytes"]

    said("trial", "--replay", "small", smallest["trial_id"])
    for table in (said("table", "small"), said("front", "small", "--objective", "params=min")):
        assert "resnet8_x0.5" in table
    assert "halve 0.25 + round 3" in said("table", "small")
    assert "halved" in said("teacher", "adopt", "small", smallest["trial_id"], "--name", "halved")
    assert smallest["student"] in said("teacher", "list")
