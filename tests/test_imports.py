"""The arrows of the house run one way: no module imports from a room above its own."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "search_spaces", "trainables")

# From the roof down. A line is a room: a package, or files that belong together.
HOUSE = """
orchestrator.cli orchestrator.query
orchestrator.commands
orchestrator.sweeps
orchestrator.results
search_spaces
trainables.trainable
trainables.cost trainables.timing trainables.memory
trainables.teacher_training trainables.adopting trainables.exporting trainables.inspecting
trainables.students
trainables.job
trainables.rows trainables.cards trainables.measuring trainables.explanations
trainables.training
trainables.recipes
trainables.optimizers
trainables.teachers
trainables.engine
trainables.experiment
trainables.config trainables.keys trainables.trial_settings
trainables.methods
trainables.measurement
trainables.compression
trainables.attribution
trainables.constraints
trainables.objectives
trainables.runtimes
trainables.evaluation
trainables.models
trainables.tasks
trainables.data
trainables.columns
trainables.column trainables.settings trainables.optimizers.registry trainables.registry
trainables.files
trainables.progress_file trainables.cache_root trainables.failures trainables.randomness
trainables.version trainables.errors trainables.once trainables.worker
"""
FLOORS = {name: floor for floor, line in enumerate(HOUSE.split("\n")) for name in line.split()}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the packages, but for what a package says of itself at the top."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if name not in PACKAGES or name in FLOORS:
                yield name, file


MODULES = dict(modules())


def floor_of(name: str) -> int | None:
    """Where the room of a module, or of a name in one, is; None for what is not ours."""
    while name not in FLOORS and "." in name:
        name = name.rpartition(".")[0]
    return FLOORS.get(name)


def imported(text: str) -> set[str]:
    """Dotted names of all that a module imports: in functions, and for its types alone, too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def climbing(name: str, text: str) -> set[str]:
    """What a module imports from rooms above its own."""
    own = floor_of(name)
    assert own is not None, f"{name} has no room in the house"
    floors = {one: floor_of(one) for one in imported(text)}
    return {one for one, floor in floors.items() if floor is not None and floor < own}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after a statement, in a fresh process."""
    program = f"import sys\n{statement}\nprint(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.split())


def test_all_rooms_are_there():
    rooms = {room for name in MODULES for room in FLOORS if f"{name}.".startswith(f"{room}.")}
    assert rooms == set(FLOORS)
    assert {name.partition(".")[0] for name in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_arrows(name):
    text = MODULES[name].read_text()
    assert not climbing(name, text)
    if name.startswith("trainables"):
        others = {one.partition(".")[0] for one in imported(text)}
        assert "ray" not in others or name == "trainables.trainable"
        assert "optuna" not in others


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("trainables.models.vgg", "import torch, trainables.job", "trainables.job"),
        ("trainables.teachers.table", "from trainables import job", "trainables.job"),
        ("trainables.config", "from trainables.engine import places", "trainables.engine.places"),
        ("search_spaces.load", "def f():\n import orchestrator.cli", "orchestrator.cli"),
        ("orchestrator.results.store", "if T:\n from orchestrator import cli", "orchestrator.cli"),
    ],
)
def test_an_arrow_that_climbs_is_seen(name, text, found):
    assert climbing(name, text) == {found}


@pytest.mark.parametrize(
    ("statement", "unloaded"),
    [
        ("import trainables", {"ray", "torch", "pandas", "pyarrow"}),
        ("import orchestrator, search_spaces", {"ray", "torch", "pandas", "pyarrow"}),
        # Nothing that may lie in the working folder, which it has not left yet.
        ("import orchestrator.cli, orchestrator.sweeps.surroundings", {"trainables", "numpy"}),
        ("import orchestrator.cli", {"ray", "torch", "optuna", "pandas", "pyarrow", "duckdb"}),
        ("import trainables.job, trainables.teacher_training", {"ray", "optuna"}),
        ("import orchestrator.sweeps.sweep", {"ray"}),
    ],
)
def test_what_an_import_loads(statement, unloaded):
    assert not unloaded & loaded_by(statement)
