"""The arrows between the packages: orchestrator -> search_spaces -> trainables, never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "trainables": {"trainables"},
    "search_spaces": {"search_spaces", "trainables"},
    "orchestrator": {"orchestrator", "search_spaces", "trainables"},
}
FILES = [
    file.relative_to(ROOT)
    for package in MAY_IMPORT
    for file in sorted((ROOT / package).rglob("*.py"))
]


def imported(file: Path) -> set[str]:
    """Top-level names of everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found.add(str(node.module).partition(".")[0])
    return found


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after a statement, in a fresh process."""
    program = f"import sys\n{statement}\nprint(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.split())


def test_all_packages_are_looked_at():
    assert {file.parts[0] for file in FILES} == set(MAY_IMPORT)
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_follow_the_arrows(file):
    ours = imported(file) & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[file.parts[0]]
    if file.parts[0] == "trainables":
        assert "ray" not in imported(file) or file.name == "trainable.py"
        assert "optuna" not in imported(file)


@pytest.mark.parametrize(
    ("statement", "unloaded"),
    [
        ("import trainables", {"ray", "torch", "pandas", "pyarrow"}),
        ("import orchestrator, search_spaces", {"ray", "torch", "pandas", "pyarrow"}),
        ("import orchestrator.cli", {"ray", "torch", "optuna", "pandas", "pyarrow", "duckdb"}),
        ("import trainables.job, trainables.teachers.train", {"ray", "optuna"}),
        ("import orchestrator.sweeps.sweep", {"ray"}),
    ],
)
def test_what_an_import_loads(statement, unloaded):
    assert not unloaded & loaded_by(statement)
