"""Verbs that only read are quick: they load neither torch nor Ray, nor what loads those."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.results.record import write_record
from orchestrator.results.store import Store
from search_spaces.load import load_study, parse_study
from trainables.teachers.orbit_file import TableKey, open_file

HEAVY = {"torch", "torchvision", "timm", "sklearn", "scipy", "ray", "optuna"}
FRAMES = {"pandas", "pyarrow", "duckdb", "matplotlib"}

# Runs commands one after the other in one process, and says what each of them loaded first.
PROGRAM = """
import json, sys
from orchestrator.cli import main
for words in json.loads(sys.argv[1]):
    before = {*sys.modules}
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    loaded = {name.partition(".")[0] for name in {*sys.modules} - before}
    print("RAN", json.dumps([words, code, sorted(loaded)]), flush=True)
"""

STUDY = {
    "name": "s",
    "dataset": "cifar100",
    "pairs": {"wrn_16_2->wrn_10_1": {}},
    "dimensions": {"method": ["student", "kd", "dml"], "kd.temperature": [1, 4]},
    "sampler": "grid",
    "published": {
        "source": "A paper.",
        "dataset": "cifar100",
        "test_acc": {"kd": {"wrn_16_2->wrn_10_1": 61.0}},
    },
}


def loaded_by(folder: Path, *commands: str) -> dict[str, tuple[int, set[str], str]]:
    """The exit code of every command, what it loaded, and what it printed."""
    split = [
        command.split(maxsplit=1 if command.startswith("query") else -1) for command in commands
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(split)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        cwd=folder,
        env={
            "PATH": "",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "KDSWEEP_CACHE": str(folder),
        },
    )
    found, printed = {}, ""
    for line in done.stdout.splitlines():
        if line.startswith("RAN "):
            words, code, loaded = json.loads(line.removeprefix("RAN "))
            found[" ".join(words)] = (code, set(loaded), printed)
            printed = ""
        else:
            printed += line + "\n"
    assert len(found) == len(commands), done.stderr
    return found


@pytest.fixture
def folder(tmp_path, trial_row) -> Path:
    """With a sweep, its results, and a table of a teacher's outputs."""
    store = Store(tmp_path / "results", "s")
    write_record(store, parse_study(STUDY), {"data_dir": None, "data_fingerprint": "data"})
    for number, method in enumerate(("student", "kd", "dml", "kd+at")):
        accuracies = {"val_acc": 0.6 + number / 100, "test_acc": 0.6}
        store.add_trial(trial_row(number, method, **accuracies))
    (tmp_path / "teacher_outputs").mkdir()
    facts = {"teacher": "t", "data": "d", "padding": 1, "flip": True, "what": "logits"}
    key = TableKey(**facts, precision="fp32", images=3, width=10)
    open_file(tmp_path / "teacher_outputs" / key.file_name, key)
    return tmp_path


def test_lists_load_no_frames_either(folder: Path) -> None:
    found = loaded_by(
        folder,
        *("studies", "studies digits", "studies compare_kd_cifar100", "studies pareto_cifar10"),
        *("studies digitz", "studies --help", "datasets", "datasets --help", "datasets nope"),
        *("datasets cifar10", "cache list", "cache list --help", "cache clear nope", "cache lst"),
        *("query --columns", "query", "optimizers", "optimizers --help"),
        *("explainers", "explainers --help"),
    )
    for command, (_, loaded, _) in found.items():
        assert not loaded & (HEAVY | FRAMES), command
    wrong = {command for command, (code, _, _) in found.items() if code == 2}
    assert wrong == {
        *("studies digitz", "datasets nope", "datasets cifar10", "cache clear nope", "cache lst"),
        "query",
    }
    assert "compare_kd_cifar100" in found["studies"][2]
    assert "kd.alpha" in found["studies digits"][2]
    assert "Gupta" in found["optimizers"][2]
    assert "weighted by what the class's logit gains" in found["explainers"][2]
    assert "3 x 18" in found["cache list"][2]


def test_readers_of_results_load_no_torch(folder: Path) -> None:
    good = (
        *("table", "table s --format latex", "table s --against published", "table --help"),
        *("front", "front s --csv", "front --objective val_acc=max", "front --help"),
        *("plot", "plot s -o s.svg", "plot --help", "query SELECT count(*) FROM trials"),
        *("query SELECT method FROM trials WHERE config LIKE '%factor%'", "query --help"),
    )
    wrong = (
        *("table t", "table s --metric nope", "table --results nowhere", "front t", "plot t"),
        *("front --objective nope=max", "plot s -o s.nope", "query SELECT nope FROM trials"),
        *("query DROP TABLE trials", "table t --against published"),
    )
    found = loaded_by(folder, *good, *wrong)
    for command, (code, loaded, _) in found.items():
        assert not loaded & HEAVY, command
        assert code == (2 if command in wrong else 0), command
    assert "61.00" in found["table s --against published"][2]
    assert (folder / "s.png").stat().st_size > 1000


def test_a_list_that_took_long_is_kept(tmp_path: Path) -> None:
    (first,), (second,) = (loaded_by(tmp_path, "methods").values() for _ in range(2))
    assert "torch" in first[1]
    assert not second[1] & (HEAVY | FRAMES)
    assert second[2] == first[2]
    assert "kd" in first[2]


def test_what_is_shown_unchecked_was_checked(folder: Path) -> None:
    """A study of a sweep that somebody edited is checked again, whatever that takes."""
    store = Store(folder / "results", "s")
    content = yaml.safe_load(store.read_study())
    content["published"]["test_acc"] = {"kdd": {"wrn_16_2->wrn_10_1": 61.0}}
    store.save_study(yaml.safe_dump(content))
    ((code, loaded, printed),) = loaded_by(folder, "table s --against published").values()
    assert (code, printed) == (2, "")
    assert "torch" in loaded


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("dimensions: {kd.temperatur: [1, 2]}", "unknown key 'kd.temperatur'"),
        ("dimensions: {method: [kd, kdd]}", "unknown method 'kdd'"),
        ("fixed: {epochs: 0}", "fixed.epochs: expected a whole number >= 1, got 0"),
    ],
)
def test_a_study_of_ones_own_is_checked(tmp_path, capsys, edit: str, expected: str) -> None:
    from orchestrator.cli import main

    own = tmp_path / "own.yaml"
    own.write_text(
        f"dataset: digits\nteacher: resnet8\n{edit}\n".replace("resnet8", "{model: resnet8}")
    )
    assert main(["studies", str(own)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err


def test_refusals_of_a_study_load_neither_ray_nor_optuna(tmp_path: Path) -> None:
    wrong = (
        *("run digitz", "run digits --set epoch=3", "run digits --set method=kdd"),
        *("run digits --set kd.alpha=7", "trial digits methd=kd", "trial digits temperature=0"),
        *("trial", "teacher train digitz", "run digits --trials -1"),
    )
    for command, (code, loaded, _) in loaded_by(tmp_path, *wrong).items():
        assert code == 2, command
        assert not loaded & {"ray", "optuna", "sklearn", "scipy", "timm", "torchvision"}, command


def test_refusals_of_a_file_load_no_torch(tmp_path: Path) -> None:
    wrong = (
        *("export", "export s s-0 --onnx a.pt2", "export s s-0 --pt2 no/a.pt2", "inspect s"),
        *("explain s -o a.jpg", "explain s -o no/a.png", "explain s -o a.png --explainers lrb"),
        *("export s --onnx a.onnx", "inspect s s-0 -o no/pictures", "export --help"),
    )
    for command, (code, loaded, _) in loaded_by(tmp_path, *wrong).items():
        assert code == (0 if command.endswith("--help") else 2), command
        assert not loaded & (HEAVY | FRAMES), command


def test_a_shipped_study_is_shown_as_it_is() -> None:
    from search_spaces.load import known_study, study_names

    for name in study_names():
        assert known_study(name) == load_study(name)
