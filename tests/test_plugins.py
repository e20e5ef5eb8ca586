"""A package of somebody else: one file and its entry points bring whatever has a name."""

import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from foreign import install, known_to_workers, present
from here import said

from orchestrator.cli import main
from orchestrator.query import trials
from orchestrator.sweeps.samplers import make_sampler
from search_spaces.load import parse_study
from search_spaces.schema import study_schema
from trainables.config import TrialConfig
from trainables.data.sources import SOURCES, load_dataset
from trainables.errors import UserError
from trainables.methods.registry import PARTS
from trainables.models.registry import FAMILIES, create_model
from trainables.optimizers.making import make_optimizer
from trainables.optimizers.registry import OPTIMIZERS
from trainables.optimizers.rule import Weight

THEIRS = '''
"""Theirs: what another package may bring."""

import re
from dataclasses import dataclass

import torch
from optuna.samplers import BaseSampler
from torch import nn

from trainables.data.dataset import Content, Images
from trainables.config import TrialConfig
from trainables.data.sources import Source
from trainables.methods.term import Term
from trainables.models.family import Design, Family
from trainables.models.outputs import Network, Outputs
from trainables.optimizers.rule import Rule
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class NudgeConfig:
    weight: float = setting(0.5, "of the distance of the logits", at_least=0)


class Nudge(Term):
    needs = frozenset({"logits"})
    Config = NudgeConfig

    def forward(self, student, teacher, batch):
        return self.config.weight * (student.logits - teacher.logits).float().square().mean()


class Dot(Network):
    def __init__(self, channels, classes, image_shape):
        super().__init__()
        self.conv = nn.Conv2d(image_shape[0], channels, 3, padding=1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images, depth=None):
        stage = self.conv(images).relu()
        embedding = stage.mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, (stage,))


def parse(base, width):
    match = re.fullmatch(r"dot(\\d+)", base)
    if match is None:
        return None
    channels = max(1, round(int(match[1]) * width))
    return Design(f"dot{channels}", lambda classes, shape: Dot(channels, classes, shape))


DOT = Family(
    name="dot",
    pattern="dot{channels}",
    description="one convolution",
    paper="theirs",
    example="dot4",
    members=("dot4", "dot8"),
    parse=parse,
    ladder=(tuple(f"dot{channels}" for channels in range(1, 17)),),
)


def stripes(asked):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 2
    images = torch.randint(0, 99, (240, 1, 8, 8), generator=draw, dtype=torch.uint8)
    images[labels == 1, :, ::2] += 99
    train, test = Images(images[:160], labels[:160]), Images(images[160:], labels[160:])
    content = Content.measure(("noise", "stripes"), train, test)
    return content.dataset(asked.name, crop_padding=0, flip=False)


def descent(config, weights, device):
    return torch.optim.SGD(weights, lr=config.lr)


@dataclass(frozen=True, kw_only=True, slots=True)
class PullConfig:
    strength: float = setting(1.0, "of the pull", above=0, search=(0.1, 10), log=True)
    beta1: float = setting(3.0, "not what ours call so", at_least=0, at_most=9)


class Pull(Rule):
    Config = PullConfig

    def build(self, trial, weights, device):
        lr = trial.lr * self.config.strength
        return torch.optim.SGD([weight.parameter for weight in weights], lr=lr)


STRIPES = Source("stripes", "noise, with and without stripes", "nothing", stripes)


class Last(BaseSampler):
    """Always the last choice."""

    def __init__(self, seed):
        pass

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        return param_distribution.choices[-1]
'''

POINTS = """
[kdsweep.terms]
nudge = theirs:Nudge
kd = theirs:Nudge

[kdsweep.families]
dot = theirs:DOT

[kdsweep.datasets]
stripes = theirs:STRIPES

[kdsweep.optimizers]
descent = theirs:descent
pull = theirs:Pull

[kdsweep.samplers]
last = theirs:Last
broken = theirs_is_not_there:Broken
"""

STUDY = {
    "name": "theirs",
    "dataset": "stripes",
    "teacher": {"model": "dot8"},
    "fixed": {"student": "dot", "compression": "factor", "epochs": 2, "lr": 0.1, "batch_size": 16}
    | {"nudge.weight": 0.25, "precision": "fp32"},
    "dimensions": {"method": ["student", "nudge"], "factor": [1, 2, 4]}
    | {"optimizer": ["sgd", "descent"]},
    "sampler": "last",
    "trials": 1,
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder into which the package was installed."""
    return install(tmp_path / "site", "theirs", THEIRS, POINTS)


@pytest.fixture
def installed(site: Path) -> Iterator[None]:
    """In this process."""
    with present(site, "theirs"):
        yield


def test_they_are_known_and_nothing_is_loaded(installed: None) -> None:
    assert "nudge" in PARTS
    assert [*FAMILIES][-1] == "dot"
    assert [*SOURCES][-1] == "stripes"
    assert PARTS.title("nudge") == "what another package may bring"
    assert "theirs" not in sys.modules
    schema = study_schema()["properties"]
    assert "last" in schema["sampler"]["enum"]
    assert "descent" in schema["fixed"]["properties"]["optimizer"]["enum"]


def test_a_name_of_ours_stays_ours(installed: None) -> None:
    assert PARTS["kd"].__module__ == "trainables.methods.kd"
    assert [*PARTS].count("kd") == 1


def test_they_are_listed_and_described(installed: None, capsys) -> None:
    for words in (["datasets"], ["models"], ["models", "dot4"], ["datasets", "stripes"]):
        assert main(words) == 0
    printed = capsys.readouterr().out
    for text in ("noise, with and without stripes", "dot{channels}", "noise, stripes"):
        assert text in printed, text


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (lambda: PARTS["nudgee"], "unknown method 'nudgee'; did you mean nudge"),
        (lambda: create_model("dott4", 2, (1, 8, 8)), "unknown model 'dott4'; did you mean dot4"),
        (lambda: load_dataset("stripe"), "unknown dataset 'stripe'; did you mean stripes"),
        (lambda: load_dataset("stripes:here"), "unknown dataset 'stripes:here'"),
        (lambda: parse_study(STUDY | {"sampler": "lst"}), "unknown sampler 'lst'; did you mean "),
        (
            lambda: parse_study(STUDY | {"dimensions": {"optimizer": ["sgd", "decent"]}}),
            "soap, descent, pull, got 'decent'; did you mean descent",
        ),
        (
            lambda: make_sampler(parse_study(STUDY | {"sampler": "broken"}), known=0),
            "sampler 'broken' of another package (theirs_is_not_there:Broken) cannot be loaded: "
            "ModuleNotFoundError: No module named 'theirs_is_not_there'",
        ),
    ],
)
def test_mistakes_are_named(installed: None, look, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        look()
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300


def test_their_sampler_chooses(installed: None) -> None:
    sampler = make_sampler(parse_study(STUDY), known=0)
    trial = optuna.create_study(sampler=sampler).ask()
    assert trial.suggest_categorical("factor", [1, 2, 4]) == 4


def test_their_optimizer_makes_the_steps(installed: None) -> None:
    config = TrialConfig(optimizer="descent", lr=0.5)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, -1.0])
    OPTIMIZERS[config.optimizer](config, [weight], torch.device("cpu")).step()
    assert weight.tolist() == [0.5, 1.5]


def test_their_optimizer_has_settings(installed: None, capsys) -> None:
    """Also under a name that ours have, with another range."""
    of_pull = {"choices": [3.0, 8.0], "when": {"optimizer": ["pull"]}}
    dimensions = {"optimizer": ["adam", "pull"], "optimizer.strength": None}
    fixed = {"student": "dot4", "lr": 0.1}
    study = parse_study(
        STUDY | {"fixed": fixed, "dimensions": dimensions | {"optimizer.beta1": of_pull}}
    )
    found = study.config({"optimizer": "pull", "optimizer.strength": 0.5, "optimizer.beta1": 8.0})
    assert found.rule == {"optimizer.strength": 0.5, "optimizer.beta1": 8.0}
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(found, [Weight("weight", weight)], torch.device("cpu"))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert main(["optimizers", "pull"]) == 0
    assert main(["optimizers"]) == 0
    printed = capsys.readouterr().out
    assert "optimizer.strength" in printed
    assert "descent" in printed
    with pytest.raises(UserError, match=r"optimizer.beta1: expected a number from 0 to 0.9999"):
        TrialConfig.from_mapping({"optimizer": "adam", "optimizer.beta1": 8.0})


@pytest.mark.slow
def test_a_sweep_of_theirs(
    site: Path, installed: None, sites: Path, cluster: list[str], tmp_path: Path
) -> None:
    """In processes of Ray, which find the package by themselves."""
    study, results = tmp_path / "theirs.yaml", tmp_path / "results"
    study.write_text(yaml.safe_dump(STUDY))
    said("teacher", "train", str(study), "--results", str(results))
    with known_to_workers(site, sites):
        said("run", str(study), *cluster, "--results", str(results))
    (row,) = trials(str(results)).to_dict("records")
    assert (row["status"], row["method"], row["dataset"]) == ("completed", "nudge", "stripes")
    assert (row["student"], row["teacher"]) == ("dot2", "dot8")
    assert '"nudge.weight":0.25' in row["config"]
    assert '"optimizer":"descent"' in row["config"]
    assert row["test_acc"] >= 0.5
