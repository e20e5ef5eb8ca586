"""The command line: its frozen verbs and options, its help, and one line for every mistake."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from orchestrator.cli import main
from orchestrator.commands.examples import EXAMPLES
from orchestrator.commands.parser import VERBS, build_parser, parse
from orchestrator.results.record import write_record
from orchestrator.results.store import Store
from orchestrator.sweeps.plan import Plan
from search_spaces.load import load_study
from trainables.job import Run
from trainables.methods.registry import term_class, term_names
from trainables.settings import settings_of

RESULTS = ["--results"]
WHERE = ["--data", "--results"]
RAY = ["--address", "--fresh-workers", "--gpus-per-trial", "--max-concurrent"]

# A change here breaks scripts that people have written: add, but do not rename or remove.
FROZEN = {
    "run": ["STUDY", *RAY, *WHERE, "--dry-run", "--name", "--set", "--trials"],
    "resume": ["SWEEP", *RAY, *WHERE],
    "confirm": ["SWEEP", *RAY, *WHERE, "--seeds", "--top"],
    "trial": ["STUDY", "KEY=VALUE", *WHERE, "--debug", "--pdb", "--profile", "--replay"],
    "table": ["SWEEP", *RESULTS, "--against", "--format", "--metric"],
    "front": ["SWEEP", *RESULTS, "--csv", "--objective"],
    "plot": ["SWEEP", *RESULTS, "--metric", "--output", "--x", "-o"],
    "query": ["SQL", *RESULTS, "--columns", "--csv"],
    "studies": ["NAME", "--schema"],
    "methods": ["NAME"],
    "compressions": ["NAME"],
    "optimizers": ["NAME"],
    "explainers": ["NAME"],
    "models": ["NAME", "--classes", "--image"],
    "datasets": ["NAME", "--data", "--download"],
    "teacher train": ["STUDY", *WHERE, "--replace", "--set"],
    "teacher import": [
        *("MODEL", "FILE", *WHERE, "--class-names", "--dataset", "--force", "--image-size"),
        *("--name", "--normalisation", "--normalization", "--replace"),
    ],
    "teacher adopt": ["SWEEP", "TRIAL_ID", *RESULTS, "--name", "--replace"],
    "teacher list": [*RESULTS],
    "explain": [
        *("SWEEP", "TRIAL_ID", *WHERE, "--explainers", "--images", "--output", "-o"),
    ],
    "export": [
        *("SWEEP", "TRIAL_ID", *WHERE, "--normalise", "--normalize", "--onnx", "--pt2"),
        "--teacher",
    ],
    "inspect": ["SWEEP", "TRIAL_ID", *WHERE, "--csv", "--output", "--teacher", "-o"],
    "cache list": [],
    "cache clear": ["TABLE"],
}


def options(parser: argparse.ArgumentParser, name: str = "") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    names = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, child in action.choices.items():
                found |= options(child, f"{name} {verb}".strip())
        else:
            names += action.option_strings or [str(action.metavar)]
    kept = sorted(name for name in names if name not in ("-h", "--help", "--version"))
    return found or {name: kept}


def test_verbs_and_options_are_frozen():
    found = options(build_parser())
    assert found == {verb: sorted(names) for verb, names in FROZEN.items()}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_shows_an_example_and_loads_nothing_heavy(verb):
    program = (
        "import sys\nfrom orchestrator.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('LOADED', *(name.partition('.')[0] for name in sys.modules))"
    )
    arguments = [verb, "--help"] if verb else ["--help"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text, _, loaded = done.stdout.rpartition("LOADED")
    assert not {"ray", "torch", "pandas", "pyarrow", "optuna"} & set(loaded.split())
    examples = text.partition("examples:")[2].strip().splitlines()
    assert examples
    assert all(line.strip().startswith("kdsweep ") for line in examples)


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_examples_are_commands_that_parse(verb):
    for line in EXAMPLES[verb].strip().splitlines():
        words = shlex.split(line.strip().partition("    ")[0], comments=True)
        words = words[1 : words.index(">")] if ">" in words else words[1:]
        assert parse(words).verb == verb


# Mistakes


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Runs a command that must be refused in one line, and leave no trace."""
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def check(*arguments: str) -> str:
        before = contents(tmp_path)
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        assert code == 2
        assert captured.out == ""
        assert captured.err.startswith("kdsweep: ")
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1, captured.err
        assert contents(tmp_path) == before
        return captured.err

    return check


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def finished(tmp_path) -> str:
    """A results folder with a sweep `s` that has one completed trial."""
    study = load_study("digits", ["epochs=1", "teacher.epochs=1"])
    plan = Plan(study, "s", str(tmp_path / "finished"))
    config = study.config({"method": "student", "factor": 2})
    store = Store(plan.results, "s")
    notes = {"data_dir": None, "data_fingerprint": plan.dataset.fingerprint}
    write_record(store, study, notes)
    row = {"trial_id": "s-00000", "attempt": 1, "status": "failed", "error": "Diverged: nan"}
    row |= {"method": "student", "dataset": "digits", "config": config.to_json()}
    store.add_trial(row | {"stage": "search"})
    return plan.results


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run digitz", "unknown study 'digitz'; did you mean digits"),
        ("run nowhere.yaml", "'nowhere.yaml' cannot be read"),
        ("run digits --set method=kdd", "unknown method 'kdd'; did you mean kd"),
        ("run digits --set temperature=0", "temperature: expected a number > 0, got 0"),
        ("run digits --set epochs=-3", "epochs: expected a whole number >= 1, got -3"),
        ("run digits --set epochs", "--set epochs: expected KEY=VALUE"),
        ("run digits --set epoch=3", "unknown key 'epoch'; did you mean epochs"),
        ("run digits --trials -1", "trials"),
        ("run digits --trials many", "--trials: invalid int value: 'many'"),
        ("run digits --max-concurrent 0", "--max-concurrent: expected at least 1, got 0"),
        ("run digits --gpus-per-trial -1", "--gpus-per-trial: expected auto"),
        ("run digits --gpus-per-trial nan", "--gpus-per-trial: expected auto"),
        ("run digits --gpus-per-trial 1.5", "--gpus-per-trial: expected auto"),
        ("run digits --name ../up", "sweep name '../up'"),
        ("run digits --set student=vgg8", "vgg8"),
        ("run digits --set student=wrm", "unknown model 'wrm'"),
        ("run digits --set factor=100000", "factor"),
        ("run digits --set teacher.model=nope", "unknown model 'nope'"),
        ("run digits --set val_fraction=0", "val_fraction"),
        ("run digits --set dataset=cifar10", "cifar10"),
        ("run pareto_cifar10", "--data"),
        ("run pareto_cifar10 --data .", "cifar10"),
        ("run digits --results s4://bucket/x", "s4://bucket/x"),
        ("run", "required: STUDY"),
        ("run digits --sett a=b", "--sett"),
        ("", "required: VERB"),
        ("rum digits", "'rum'"),
        ("resume digits", "unknown sweep 'digits'"),
        ("confirm digits", "digits"),
        ("table digits", "digits"),
        ("front digits", "digits"),
        ("plot digits", "digits"),
        ("trial", "expected a study, or --replay"),
        ("trial digitz", "unknown study 'digitz'"),
        ("trial digits methd=kd", "unknown key 'methd'; did you mean method"),
        ("trial digits --pdb method=kd --nope", "unrecognized arguments"),
        ("trial digits method", "method: expected KEY=VALUE"),
        ("trial digits --profile p.json epochs=1", "--profile: needs at least 2 epochs"),
        ("trial --replay digits digits-00000", "unknown sweep 'digits'"),
        ("query VALUES(1)", "no sweeps"),
        ("query", "expected a statement, such as SELECT, or --columns"),
        ("studies nope", "unknown study 'nope'"),
        ("methods nope", "unknown method 'nope'"),
        ("methods kd+at+kd", "a term is named twice"),
        ("methods at+ls", "join it with a term that has a softmax"),
        ("models nope", "unknown model 'nope'"),
        ("models wrn_16_2 --image 3x-1x8", "--image: expected CxHxW"),
        ("models wrn_16_2 --classes -1", "--classes: expected at least 2"),
        ("datasets nope", "unknown dataset 'nope'"),
        ("datasets cifar10", "--data"),
        ("teacher", "required: ACTION"),
        ("teacher train digits --set teacher.epochs=0", "teacher.epochs"),
        ("teacher adopt digits digits-00000", "unknown sweep 'digits'"),
        ("export", "export: expected one of --onnx FILE and --pt2 FILE, got neither"),
        ("export digits d-0 --onnx a.onnx --pt2 a.pt2", "and --pt2 FILE, got both"),
        ("export --onnx a.onnx", "export: expected SWEEP TRIAL_ID, or --teacher NAME"),
        ("export digits --onnx a.onnx", "export: expected SWEEP TRIAL_ID, or --teacher NAME"),
        ("export digits --teacher t --onnx a.onnx", "or --teacher NAME, got both"),
        ("export digits d-0 --onnx a.pt2", "--onnx a.pt2: expected a file that ends in .onnx"),
        ("export digits d-0 --pt2 a", "--pt2 a: expected a file that ends in .pt2"),
        ("export digits d-0 --onnx no/a.onnx", "--onnx no/a.onnx: there is no folder no"),
        ("export digits d-0 --onnx a.onnx", "unknown sweep 'digits'"),
        ("export --teacher t --onnx a.onnx", "unknown teacher 't'"),
        ("inspect digits", "inspect: expected SWEEP TRIAL_ID, or --teacher NAME"),
        ("inspect digits d-0", "unknown sweep 'digits'"),
        ("inspect digits d-0 -o no/pictures", "-o no/pictures: cannot be written"),
        ("run digits --set pair=a->b", "pair: the study has no pairs"),
        ("teacher import wrn_16_2 nowhere.pt --dataset digits", "nowhere.pt"),
        ("teacher import wrm_16_2 nowhere.pt --dataset digits", "nowhere.pt"),
    ],
)
def test_a_mistake_gets_one_line_and_starts_nothing(refused, arguments, expected):
    assert expected in refused(*arguments.split())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dimension": {}}, "unknown key in study 'dimension'; did you mean dimensions"),
        ({"fixed": {"epoch": 3}}, "unknown key 'epoch'"),
        ({"dimensions": {"temprature": [1]}}, "unknown key 'temprature'; did you mean temperature"),
        ({"teacher": {"model": "wrn_16_2", "epoch": 3}}, "'teacher.epoch'"),
        ({"teacher": {"name": "nobody"}}, "there is no teacher 'nobody'"),
        ({"objectives": {"val_accuracy": "max"}}, "objective 'val_accuracy'; did you mean val_acc"),
        ({"objectives": {"host": "max"}}, "unknown objective 'host'"),
        ({"objectives": {"compression_params": "max"}, "teacher": None}, "needs a teacher"),
        ({"dimensions": {"method": ["kd"]}, "teacher": None}, "teacher: method 'kd' needs one"),
        (
            {"teacher": {"model": "wrn_10_1", "method": "kd"}},
            "teacher: method 'kd' needs a teacher",
        ),
        (
            {"teacher": {}, "fixed": {}, "pairs": {"wrn_16_1->wrn_10_1": {"lr": 0}}},
            "pairs.wrn_16_1->wrn_10_1.lr: expected a number > 0, got 0",
        ),
    ],
)
def test_a_mistake_in_a_study_file(refused, tmp_path, changes, expected):
    content = yaml.safe_load(Path(load_study.__globals__["SHIPPED"], "digits.yaml").read_text())
    content |= {"dimensions": {"method": ["student"]}, "cover": [], "sampler": "grid"}
    content["fixed"] = {"student": "wrn_10_1"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content | changes))
    assert expected in refused("run", "own.yaml", "--results", "results")


@pytest.mark.parametrize("verb", ["run", "trial", "teacher train"])
def test_results_that_cannot_be_written(refused, tmp_path, verb):
    (tmp_path / "file").write_text("")
    for results in ("file", "file/below", "/proc/results"):
        assert "results" in refused(*verb.split(), "digits", "--results", results)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("resume t", "unknown sweep 't'; "),
        ("table t", "unknown sweep 't'; "),
        ("table s", "no finished trial"),
        ("plot s -o x.png", "finished"),
        ("confirm s", "no finished trial"),
        ("confirm s --seeds 0", "--seeds: expected at least 1, at most 10000, got 0"),
        ("confirm s --seeds 99999999999", "--seeds: expected at least 1, at most 10000"),
        ("front s", "no finished trial: 1 failed; most often: Diverged: nan"),
        ("front s --objective val_acc=max --objective val_acc=min", "val_acc is named twice"),
        ("run digits --name s/t", "sweep name 's/t'"),
        ("run digits --name=-x", "sweep name '-x'"),
        ("resume " + "s" * 300, "expected at most 200 characters, got 300"),
        ("run digits --set repeats=2 --set seed=4294967295", "reaches beyond the greatest seed"),
        ("run digits --set sampler_seed=99999999999", "sampler_seed"),
        ("run digits --set compression=depth --set depth=3", "depth: only mobilenetv2 and"),
        ("trial digits compression=depth depth=3", "depth: only mobilenetv2 and"),
        ("trial digits compression=width width=2", "'wrn' is a family"),
        ("confirm s --top -1", "--top: expected at least 1, got -1"),
        ("front s --objective val_acc", "expected COLUMN=max or COLUMN=min"),
        ("front s --objective nope=max", "nope"),
        ("front s --objective host=max", "unknown objective 'host'"),
        ("trial --replay s s-00001", "unknown trial 's-00001'; did you mean s-00000"),
        ("run digits --name s", "--name s: there is such a sweep"),
        ("teacher adopt s s-00001", "unknown trial 's-00001'"),
        ("export s s-00001 --onnx a.onnx", "unknown trial 's-00001'"),
        ("inspect s s-00001", "unknown trial 's-00001'"),
    ],
)
def test_a_mistake_about_a_sweep(refused, finished, arguments, expected):
    assert expected in refused(*arguments.split(), "--results", finished)


def test_broken_sql(refused, finished):
    for sql in ("SELEKT 1", "SELECT nope FROM trials", "SELECT * FROM '/etc/passwd'", "DROP x"):
        assert "query" in refused("query", sql, "--results", finished)


def test_every_column_is_explained(finished, capsys):
    assert main(["query", "--columns"]) == 0
    explained = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    for table in ("trials", "epochs"):
        text = f"SELECT column_name FROM (DESCRIBE {table})"
        assert main(["query", text, "--csv", "--results", finished]) == 0
        assert {*capsys.readouterr().out.split()[1:]} <= explained


def test_changed_data_is_refused(refused, finished):
    path = Path(finished, "s", "study.yaml")
    content = yaml.safe_load(path.read_text())
    content["kdsweep"]["data_fingerprint"] = "0" * 64
    path.write_text(yaml.safe_dump(content))
    message = refused("resume", "s", "--results", finished)
    assert "'digits' is not the one that sweep 's' began with" in message


# What works without Ray


def said(capsys, *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_lists_and_descriptions(capsys):
    assert "digits" in said(capsys, "studies")
    assert "wrn_16_2" in said(capsys, "studies", "digits")
    assert json.loads(said(capsys, "studies", "--schema"))["title"] == "kdsweep study"
    assert "wrn" in said(capsys, "models")
    assert "2,243,546" in said(capsys, "models", "wrn_40_2")
    assert "cifar10" in said(capsys, "datasets")
    assert "1x8x8" in said(capsys, "datasets", "digits")


def cells(text: str, first: str) -> list[str]:
    """The row of a printed table that begins with ``first``."""
    (row,) = [line for line in text.splitlines() if line.split()[:1] == [first]]
    return re.split(" {2,}", row.strip())


@pytest.mark.slow
def test_the_methods_and_what_they_cost(capsys):
    text = said(capsys, "methods")
    assert cells(text, "student")[1:] == ["nothing", "1", "1.00", "1.00", "cross-entropy alone"]
    for name in term_names():
        assert len(cells(text, name)) == 7, name
    assert cells(text, "kd")[1:4] == ["term", "logits", "0.1"]
    assert cells(text, "ls")[1:4] == ["modifier of logits", "logits", "0.1"]
    assert cells(text, "mixup")[1:6] == ["modifier of images", "nothing", "1", "1.00", "1.00"]
    assert cells(text, "at")[2::3] == ["feature maps", "-"]
    assert cells(text, "kd")[5] == "1.00"
    assert float(cells(text, "kd")[4]) > 1.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "whole", "reads", "looked_up"),
    [
        ("at+kd", "kd+at", "at is a term and reads of the teacher: feature maps", False),
        ("ls", "kd+ls", "ls is a modifier of logits and reads of the teacher: logits", True),
    ],
)
def test_a_method_is_described_counted_and_timed(capsys, name, whole, reads, looked_up):
    assert main(["methods", name]) == 0
    text, err = capsys.readouterr()
    assert err.startswith(f"timing steps of {whole} here")
    for part in name.split("+"):
        kind = term_class(part)
        assert sys.modules[kind.__module__].__doc__.strip() in text
        for key, found in settings_of(kind.Config).items():
            assert ("yes" in cells(text, f"{part}.{key}")) == found.weight
    assert reads in text
    assert f"{whole} leaves 0.1 of the cross-entropy" in text
    assert ("looked up: not possible" in text) != looked_up
    spent = re.search(r"time +([\d.]+): ([\d.]+) ms over ([\d.]+) ms, medians of (\d+) steps", text)
    ratio, ours, theirs, steps = map(float, spent.groups())
    assert ratio == pytest.approx(ours / theirs, abs=0.01)
    assert steps >= 5


ALONE = "dataset: digits\nfixed: {student: wrn_10_0.5, epochs: 1, train_fraction: 0.1}\n"


def test_a_study_of_data_and_fixed_settings_alone(capsys, tmp_path):
    study = tmp_path / "alone.yaml"
    study.write_text(ALONE)
    results = ["--results", str(tmp_path / "r")]
    assert "val_acc" in said(capsys, "trial", str(study), *results)
    without = said(capsys, "trial", str(study), "val_fraction=0", *results)  # nothing is chosen
    assert "test_acc" in without.partition("result")[2]
    assert "val_acc" not in without.partition("result")[2]
    assert "1 configs, 1 seeds each" in said(capsys, "studies", str(study))
    # One that says how to search and not how long is tried all the same.
    study.write_text(ALONE + "dimensions: {lr: {low: 0.01, high: 0.1}}\n")
    assert "val_acc" in said(capsys, "trial", str(study), *results)
    assert not (tmp_path / "r").exists()


def test_only_a_search_asks_for_a_budget(refused, tmp_path):
    (tmp_path / "alone.yaml").write_text(ALONE + "dimensions: {lr: [0.1, 0.2]}\n")
    assert "trials: expected how many configs to train" in refused("run", "alone.yaml")


def test_a_name_that_is_empty_is_no_name(refused, finished):
    assert "sweep name ''" in refused("run", "digits", "--name", "", "--results", finished)


def test_the_front_says_what_it_is_over(capsys, tmp_path, trial_row):
    store = Store(tmp_path, "s")
    rows = [("student", 0.7), ("kd", 0.7), ("at", 0.6)]
    for number, (method, accuracy) in enumerate(rows):
        store.add_trial(trial_row(number, method, 4, val_acc=accuracy, test_acc=0.5))
    text = said(capsys, "front", "s", "--results", str(tmp_path))
    assert text.startswith("front over val_acc max, compression_params max (the study's own)")
    assert [line.split()[-2:] for line in text.splitlines()[1:]] == [
        ["equal", "trial_id"],
        ["2", "s-00000"],
    ]
    text = said(capsys, "front", "s", "--objective", "val_acc=min", "--results", str(tmp_path))
    assert text.startswith("front over val_acc min (as asked)")
    csv = said(capsys, "front", "s", "--csv", "--results", str(tmp_path))
    assert len(csv.splitlines()) == 2
    assert csv.startswith("method,student,compression_params,val_acc,test_acc,n,equal,trial_id\n")


def test_a_front_without_validation(capsys, refused, tmp_path, trial_row):
    """Of a published study, which trains on all images and chooses nothing."""
    folder = tmp_path / "r"
    store = Store(folder, "s")
    for number, (method, factor) in enumerate([("student", 2), ("kd", 2), ("student", 4)]):
        store.add_trial(trial_row(number, method, factor, test_acc=0.5 + number))
    where = ["s", "--results", str(folder)]
    assert "no finished trial of 3 has val_acc: val_fraction is 0" in refused("front", *where)
    assert "no finished trial of 3 has val_acc" in refused("table", *where, "--metric", "val_acc")
    assert "no finished trial of 3 has val_acc" in refused("plot", *where, "--metric", "val_acc")
    store.save_study("objectives: {compression_params: max}")
    text = said(capsys, "front", *where)
    assert "No trial has val_acc (val_fraction: 0) and nothing is chosen by the test set" in text
    assert text.splitlines()[-1].split()[-1] == "s-00002"


def test_a_trial_here_and_its_teacher(capsys, tmp_path):
    results = ["--results", str(tmp_path)]
    small = ["train_fraction=0.1", "epochs=2"]
    text = said(capsys, "trial", "digits", "method=kd", "temperature=3", *small, *results)
    assert "training the teacher wrn_16_2 first" in text
    assert text.count("epoch   2") == 2
    assert "val_acc" in text
    again = said(capsys, "trial", "digits", "method=kd", "temperature=3", *small, *results)
    assert "training the teacher" not in again
    scores = [[line.split() for line in t.splitlines() if "_acc " in line] for t in (text, again)]
    assert len(scores[0]) == 3
    assert scores[0] == scores[1]
    assert "wrn_16_2" in said(capsys, "teacher", "list", *results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teachers"]


PAIRS = """
dataset: digits
teacher: {epochs: 1}
pairs:
  wrn_10_1->wrn_10_0.5:
  ta: {teacher: {model: resnet8, method: kd, teacher: resnet14}, student: wrn_10_0.5}
fixed: {epochs: 1, train_fraction: 0.1}
dimensions: {method: [student, kd]}
sampler: grid
"""


def test_pairs_and_a_chain_here(capsys, tmp_path):
    (tmp_path / "own.yaml").write_text(PAIRS)
    study, results = str(tmp_path / "own.yaml"), ["--results", str(tmp_path / "r")]
    shown = said(capsys, "studies", study)
    assert "4 configs" in shown
    assert "{'teacher': {'model': 'wrn_10_1'}, 'student': 'wrn_10_0.5'}" in shown
    text = said(capsys, "trial", study, "pair=ta", "method=kd", *results)
    told = [line for line in text.splitlines() if line.startswith("training the teacher")]
    assert told == [
        "training the teacher resnet14 first",
        "training the teacher resnet8(kd:resnet14) first",
    ]
    assert "resnet8(kd:resnet14)" in text.partition("result")[2]
    text = said(capsys, "teacher", "train", study, *results)
    assert "training the teacher wrn_10_1\n" in text
    assert "training the teacher resnet" not in text
    named = [line.split()[1] for line in text.splitlines() if line.startswith("teacher ")]
    assert named == ["wrn_10_1", "resnet14", "resnet8(kd:resnet14)"]
    assert "training" not in said(capsys, "trial", study, "method=kd", *results)


def test_the_student_of_a_trial_becomes_a_teacher(capsys, tmp_path, finished):
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
    assert f"teacher assistant (resnet8): {100 * accuracy:.2f} %" in said(capsys, *adopt)
    assert said(capsys, *adopt)  # once more makes no difference
    (tmp_path / "own.yaml").write_text(
        "{dataset: digits, teacher: {name: assistant}, sampler: grid,"
        " dimensions: {method: [kd]}, fixed: {student: wrn_10_0.5, epochs: 1}}"
    )
    text = said(capsys, "trial", str(tmp_path / "own.yaml"), "train_fraction=0.1", *results)
    assert "training the teacher" not in text
    assert "assistant" in text.partition("result")[2]


def test_a_profile_is_written(capsys, tmp_path):
    path = tmp_path / "profile.json"
    text = said(
        capsys,
        *("trial", "digits", "method=student", "train_fraction=0.1", "epochs=2", "factor=32"),
        *("teacher.model=wrn_10_1", "--profile", str(path), "--results", str(tmp_path / "r")),
    )
    assert "Self CPU" in text
    assert json.loads(path.read_text())["traceEvents"]


def test_a_reader_that_closes_the_pipe_is_no_error():
    program = [sys.executable, "-m", "orchestrator.cli", "studies", "--schema"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


def test_the_version_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout.startswith("kdsweep ")
