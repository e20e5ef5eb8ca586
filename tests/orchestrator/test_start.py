"""Studies whose students begin with trained networks: keys, jobs, and what is refused first."""

import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.query import trials
from orchestrator.results.sharing import for_every_teacher
from orchestrator.sweeps.checks import check_names
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.packing import largest
from orchestrator.sweeps.plan import Plan
from search_spaces.load import parse_study
from trainables.compression.registry import STEPS
from trainables.config import TrialConfig
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Bits, Channels
from trainables.models.weights import Card, save_network
from trainables.teachers.teacher import teacher_folder

QUICK = {"epochs": 1, "train_fraction": 0.1, "val_fraction": 0.2, "precision": "fp32"}
NARROW = Channels.kept(
    {"layer1.0.conv1": range(4, 16), "layer1.0.bn1": range(4, 16)}, {"layer1.0.conv2": range(4, 16)}
)


@pytest.fixture
def results(tmp_path) -> str:
    return str(tmp_path / "results")


@pytest.fixture
def filed(results: str):
    """Files an untrained network of digits."""

    def write(name: str, *edits: Any, model: str = "resnet8", **facts: Any) -> str:
        data = load_dataset("digits")
        network = build(Blueprint(model), 10, data.image_shape)
        for one in edits:
            edit(network, one, data.image_shape)
        card = Card(
            name=name, model=model, edits=network.blueprint.edits, dataset="digits",
            data_fingerprint=data.fingerprint, classes=10, class_names=data.classes,
            image_shape=data.image_shape, mean=data.mean, std=data.std, test_acc=0.1, params=1,
            macs=1, origin="a file",
        )  # fmt: skip
        save_network(
            teacher_folder(results), f"{name}.safetensors", network, replace(card, **facts)
        )
        return name

    return write


def plan(results: str, fixed: dict[str, Any] | None = None, **changes: Any) -> Plan:
    content = {
        "name": "s",
        "dataset": "digits",
        "teacher": {"model": "resnet8"},
        "fixed": {"student": "resnet8", **QUICK, **(fixed or {})},
        "sampler": "grid",
    }
    made = Plan(parse_study(content | changes), "s", results)
    check_names(made)
    made = made.with_teachers()
    check_networks(made)
    return made


def test_a_start_is_a_dimension_and_every_one_a_trial_of_its_own(results: str, filed) -> None:
    filed("other")
    starts = ["scratch", "teacher", "other"]
    made = plan(results, {"method": "kd"}, dimensions={"start": starts})
    configs = [made.study.config(point) for point in made.study.first_points()]
    assert [config.start for config in configs] == starts
    assert len({made.key(config) for config in configs}) == 3
    scratch, taught, named = (made.job(config, "t", 1) for config in configs)
    assert (scratch.start, scratch.start_fingerprint) == (None, None)
    assert taught.start == taught.teacher == made.teachers.recipes[0].key
    assert named.start == "other"
    assert named.start_fingerprint == made.cards["other"].fingerprint
    assert [recipe.key for recipe in made.missing(configs[2])] == [made.teachers.recipes[0].key]


def test_one_network_by_two_names_is_one_start(results: str, filed) -> None:
    filed("other")
    made = plan(
        results,
        {"method": "kd"},
        teacher={"name": "other"},
        dimensions={"start": ["teacher", "other"]},
    )
    assert len({made.key(made.study.config(point)) for point in made.study.first_points()}) == 1


def test_another_normalisation_is_said(results: str, filed) -> None:
    filed("bright", mean=(0.5,), normalisation="half")
    said = "start 'bright': its students see images in its normalisation (half)"
    guess = "warning: teacher 'bright' has 10.00 % on the test set, hardly more than guessing"
    for remarks, expected in (
        (plan(results, {"start": "bright"}).remarks, [said]),
        (plan(results, {"start": "teacher"}, teacher={"name": "bright"}).remarks, [said]),
        (plan(results, teacher={"name": "bright"}).remarks, []),
    ):
        assert [line for line in remarks if not line.startswith(guess)] == expected


def test_an_edited_start_is_what_is_checked_and_packed(results: str, filed) -> None:
    filed("narrow", NARROW)
    made = plan(results, {"start": "narrow", "compression": "prune", "prune": 2})
    blueprint = made.blueprint(largest(made))
    assert blueprint.edits == (NARROW,)
    with pytest.raises(UserError, match="prune: 100 times fewer macs"):
        plan(results, {"start": "narrow", "compression": "prune", "prune": 100})


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        ({"start": "narow"}, "start: unknown network 'narow'; did you mean narrow?"),
        ({"start": "teachr"}, "start: unknown network 'teachr'; did you mean teacher?"),
        (
            {"start": "narrow", "student": "wrn_16_1"},
            "student: wrn_16_1: start: narrow begins with resnet8; write student: resnet8",
        ),
        ({"start": "teacher", "student": "wrn_10_1"}, "start: teacher begins with resnet8; write"),
        ({"start": "rounded"}, "start: rounded: its weights are settled by edit 'bits'"),
        ({"start": "letters"}, "start: letters: teacher 'letters' has other classes than dataset"),
        ({"start": "tags"}, "start: tags: teacher 'tags' was made for multi_label images"),
        ({"start": "narrow", "compression": "width", "width": 0.5}, "'width' of compression"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_anything_starts(
    results: str, filed, fixed: dict[str, Any], said: str
) -> None:
    filed("narrow", NARROW)
    filed("rounded", Bits.of({"conv1": 4}))
    filed("letters", class_names=tuple("abcdefghij"))
    filed("tags", task="multi_label")
    with pytest.raises(UserError) as caught:
        plan(results, fixed)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_plain_student_that_began_with_its_teacher_is_no_other_teachers(trial_row, recorded):
    def row(number: int, teacher: str, start: str, method: str = "student"):
        settings = {"start": start, "teacher": teacher, "compression": "explicit"}
        return trial_row(
            number, method, teacher=teacher, student="wrn_16_1", settings=settings, test_acc=0.5
        )

    for start, teachers in (("scratch", {"one", "two"}), ("teacher", {"one"})):
        rows = [row(0, "one", start), row(1, "two", "scratch", "kd")]
        frame = for_every_teacher(recorded(rows, sweep=start).query("sweep == @start"))
        assert set(frame[frame["method"] == "student"]["teacher"]) == teachers


STUDY = """
dataset: digits
teacher: {model: resnet8, epochs: 2}
fixed:
  student: resnet8
  method: kd
  epochs: 2
  train_fraction: 0.1
  val_fraction: 0.2
  precision: fp32
  compression: prune
  prune: 1.5
dimensions:
  start: [scratch, teacher]
sampler: grid
"""


def test_trial_adopt_and_begin_again(tmp_path, results, filed, capsys) -> None:
    """As a user does it, in one process: the teacher is trained first."""
    study = tmp_path / "mine.yaml"
    study.write_text(STUDY)

    def trial(*assignments: str) -> str:
        capsys.readouterr()
        assert main(["trial", str(study), *assignments, "--results", results]) == 0
        return capsys.readouterr().out

    keys = {}
    for start in ("scratch", "teacher"):
        said = trial(f"start={start}")
        assert ("training the teacher resnet8 first" in said) == (start == "scratch")
        keys[start] = said.partition("config_key ")[2].split()[0]
        assert "resnet8~" in said
    assert keys["scratch"] != keys["teacher"]
    assert main(["trial", str(study), "start=nothing", "--results", results]) == 2
    assert "start: unknown network 'nothing'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_over_starts_is_resumed_and_replayed(
    tmp_path, results, filed, cluster, capsys
) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(STUDY)
    words = ["--max-concurrent", "1", *cluster, "--results", results]
    assert main(["run", str(study), *words, "--name", "s"]) == 0
    frame = trials(results).set_index("trial_id")
    assert list(frame["status"]) == ["completed"] * 2
    started = frame[frame["start"].notna()]
    assert list(started["start"]) == ["resnet8"]
    (name,) = started.index
    assert json.loads(started.loc[name, "config"])["start"] == "teacher"
    assert (frame["student"].str.startswith("resnet8~")).all()
    assert main(["resume", "s", "--results", results]) == 0
    assert main(["trial", "--replay", "s", name, "--results", results]) == 0
    said = capsys.readouterr().out
    assert started.loc[name, "config_key"] in said
    adopt = ["teacher", "adopt", "s", name, "--name", "small", "--results", results]
    assert main(adopt) == 0
    study.write_text(STUDY.replace("  compression: prune\n  prune: 1.5\n", "  sparsify: 0.5\n"))
    assert main(["trial", str(study), "start=small", "--results", results]) == 0
    capsys.readouterr()
    # Another network takes the name of the one that the sweep began with.
    (file,) = {*teacher_folder(results).names(".safetensors")} - {"small.safetensors"}
    filed(file.removesuffix(".safetensors"), origin="{}")
    assert main(["resume", "s", "--results", results]) == 2
    assert "has changed since the sweep began" in capsys.readouterr().err


def test_every_step_may_follow_a_start() -> None:
    for name in STEPS:
        config = TrialConfig.from_mapping(
            {"student": "resnet8", "teacher": "resnet8", "start": "teacher", "compression": name}
        )
        assert config.compression == name
