"""The command line: its frozen verbs and options, its help, its examples."""

import argparse
import os
import shlex
import subprocess
import sys

import pytest

from orchestrator.commands.examples import EXAMPLES
from orchestrator.commands.parser import VERBS, build_parser, parse

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
        *("SWEEP", "TRIAL_ID", *WHERE, "--explainers", "--images", "--output", "--set", "-o"),
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


def ended(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What a process does that runs a verb as the program itself."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"{program}\nfrom orchestrator.cli import main\nsys.exit(main())",
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )


LAST = """
import atexit, sys, threading, time
class Cycle:
    def __del__(self): print("taken apart")
cycle = Cycle()
cycle.itself = cycle
atexit.register(print, "registered")
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [(("models", "resnet8"), 0), (("table", "resnet8"), 2)],
)
def test_a_process_ends_without_taking_its_objects_apart(words, code):
    """After all that it printed, and what was registered for its end."""
    done = ended(LAST, *words)
    assert done.returncode == code
    lines = done.stdout.splitlines()
    assert lines.pop() == "registered"
    assert ("resnet8" in "".join(lines)) is (code == 0)
    assert bool(done.stderr) is (code == 2)


def test_threads_are_waited_for():
    late = "threading.Thread(target=lambda: (time.sleep(1), print('late'))).start()\n"
    done = ended(LAST + late, "datasets")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-3:] == ["late", "registered", "taken apart"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_an_output_that_is_full_is_told_of_at_the_end():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "studies"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("kdsweep: ")
    assert line.endswith("No space left on device")
