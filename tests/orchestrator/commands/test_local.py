"""Trials and teachers in this process, without Ray."""

import json

import torch
from here import said

from orchestrator.sweeps.plan import Plan
from search_spaces.load import load_study
from trainables.job import Run

ALONE = "dataset: digits\nfixed: {student: wrn_10_0.5, epochs: 1, train_fraction: 0.1}\n"


def test_a_study_of_data_and_fixed_settings_alone(tmp_path):
    study = tmp_path / "alone.yaml"
    study.write_text(ALONE)
    results = ["--results", str(tmp_path / "r")]
    assert "val_acc" in said("trial", str(study), *results)
    without = said("trial", str(study), "val_fraction=0", *results)  # nothing is chosen
    assert "test_acc" in without.partition("result")[2]
    assert "val_acc" not in without.partition("result")[2]
    assert "1 configs, 1 seeds each" in said("studies", str(study))
    # One that says how to search and not how long is tried all the same.
    study.write_text(ALONE + "dimensions: {lr: {low: 0.01, high: 0.1}}\n")
    assert "val_acc" in said("trial", str(study), *results)
    assert not (tmp_path / "r").exists()


def test_a_trial_here_and_its_teacher(tmp_path):
    results = ["--results", str(tmp_path)]
    small = ["train_fraction=0.1", "epochs=2", "teacher.epochs=2", "teacher.model=wrn_10_1"]
    text = said("trial", "digits", "method=kd", "temperature=3", *small, *results)
    assert "training the teacher wrn_10_1 first" in text
    assert text.count("epoch   2") == 2
    assert "val_acc" in text
    again = said("trial", "digits", "method=kd", "temperature=3", *small, *results)
    assert "training the teacher" not in again
    scores = [[line.split() for line in t.splitlines() if "_acc " in line] for t in (text, again)]
    assert len(scores[0]) == 3
    assert scores[0] == scores[1]
    assert "wrn_10_1" in said("teacher", "list", *results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teachers"]


PAIRS = """
dataset: digits
teacher: {epochs: 1, train_fraction: 0.1}
pairs:
  wrn_10_0.75->wrn_10_0.5:
  ta: {teacher: {model: resnet8_x0.25, method: kd, teacher: resnet8_x0.5}, student: wrn_10_0.5}
fixed: {epochs: 1, train_fraction: 0.1, precision: fp32}
dimensions: {method: [student, kd]}
sampler: grid
"""


def test_pairs_and_a_chain_here(tmp_path):
    (tmp_path / "own.yaml").write_text(PAIRS)
    study, results = str(tmp_path / "own.yaml"), ["--results", str(tmp_path / "r")]
    shown = said("studies", study)
    assert "4 configs" in shown
    assert "{'teacher': {'model': 'wrn_10_0.75'}, 'student': 'wrn_10_0.5'}" in shown
    text = said("trial", study, "pair=ta", "method=kd", *results)
    told = [line for line in text.splitlines() if line.startswith("training the teacher")]
    assert told == [
        "training the teacher resnet8_x0.5 first",
        "training the teacher resnet8_x0.25(kd:resnet8_x0.5) first",
    ]
    assert "resnet8_x0.25(kd:resnet8_x0.5)" in text.partition("result")[2]
    text = said("teacher", "train", study, *results)
    assert "training the teacher wrn_10_0.75\n" in text
    assert "training the teacher resnet" not in text
    named = [line.split()[1] for line in text.splitlines() if line.startswith("teacher ")]
    assert named == ["wrn_10_0.75", "resnet8_x0.5", "resnet8_x0.25(kd:resnet8_x0.5)"]
    assert "training" not in said("trial", study, "method=kd", *results)


def test_the_student_of_a_trial_becomes_a_teacher(tmp_path, finished):
    """The weights are of a trial that was really trained, as a sweep keeps them."""
    plan = Plan(load_study("digits", ["epochs=1", "teacher.epochs=1"]), "s", finished)
    config = plan.study.config({"method": "student", "factor": 2}).replace(
        compression="explicit", factor=None, student="resnet8", train_fraction=0.1
    )
    results = ["--results", finished]
    run = Run(plan.job(config.replace(teacher=None), "s-00007", 1), torch.device("cpu"))
    run.run_epoch()
    accuracy = run.row("completed")["test_acc"]
    adopt = ["teacher", "adopt", "s", "s-00007", "--name", "assistant", *results]
    assert f"teacher assistant (resnet8): {100 * accuracy:.2f} %" in said(*adopt)
    assert said(*adopt)  # once more makes no difference
    (tmp_path / "own.yaml").write_text(
        "{dataset: digits, teacher: {name: assistant}, sampler: grid,"
        " dimensions: {method: [kd]}, fixed: {student: wrn_10_0.5, epochs: 1}}"
    )
    text = said("trial", str(tmp_path / "own.yaml"), "train_fraction=0.1", *results)
    assert "training the teacher" not in text
    assert "assistant" in text.partition("result")[2]


def test_a_profile_is_written(tmp_path):
    path = tmp_path / "profile.json"
    text = said(
        *("trial", "digits", "method=student", "train_fraction=0.1", "epochs=2", "factor=32"),
        *("teacher.model=wrn_10_1", "--profile", str(path), "--results", str(tmp_path / "r")),
    )
    assert "Self CPU" in text
    assert json.loads(path.read_text())["traceEvents"]
