"""A user's environment at its worst decides nothing: one sweep in all of it at once."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from here import said

ROOT = Path(__file__).parents[2]

STUDY = {
    "dataset": "digits",
    "teacher": {"model": "wrn_10_1", "epochs": 1, "train_fraction": 0.2},
    "fixed": {
        "student": "wrn_10_0.5",
        "epochs": 1,
        "train_fraction": 0.2,
        "val_fraction": 0.2,
        "precision": "auto",
    },
    "dimensions": {"method": ["kd"]},
    "sampler": "grid",
    "objectives": {"val_acc": "max"},
}

HOSTILE = {
    # As batch scripts set them for one program that has the whole machine.
    "OMP_NUM_THREADS": "7,2",
    "MKL_NUM_THREADS": "7",
    "OPENBLAS_NUM_THREADS": "",
    "OMP_PROC_BIND": "true",
    "OMP_PLACES": "{0}",
    "GOMP_CPU_AFFINITY": "0",
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_CPUS_PER_TASK": "7",
    # As profiles and administrators leave them.
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
    "PYTHONSTARTUP": "/nowhere.py",
    "LC_ALL": "C",
    "TERM": "dumb",
    "COLUMNS": "3",
    "NO_COLOR": "1",
    "HOME": "/nonexistent",
    "XDG_CACHE_HOME": "/nonexistent",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    # A site's cluster is not ours.
    "RAY_ADDRESS": "127.0.0.1:9",
    "RAY_REDIS_ADDRESS": "127.0.0.1:9",
    "RAY_NAMESPACE": "site",
    "RAY_CHDIR_TO_TRIAL_DIR": "1",
    "TUNE_RESULT_DIR": "/nonexistent",
}

MODULES = ("profile", "numpy", "queue", "statistics", "torch", "ray", "trainables")


@pytest.fixture
def hostile(tmp_path):
    """Runs a verb in a folder of misleading modules, with misleading variables."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the user')\n")
    long = Path(f"{tmp_path}/".ljust(115, "t"))
    long.mkdir()
    ours = {name: value for name, value in os.environ.items() if "RAY_AUTH" not in name}
    environment = {**ours, **HOSTILE, "TMPDIR": str(long)}
    # An empty entry is the working folder, as `PYTHONPATH=$PYTHONPATH:...` leaves it.
    environment["PYTHONPATH"] = f":{ROOT}"
    # What `kdsweep` itself does. (`python -m` would put the working folder first.)
    program = "import sys; from orchestrator.cli import main; sys.exit(main())"
    script = tmp_path / "kdsweep"
    script.write_text(program)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            umask=0o077,
            check=False,
        )

    return run


@pytest.mark.slow
def test_nothing_of_it_changes_a_sweep(hostile, tmp_path):
    study = tmp_path / "s.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    results = ["--results", str(tmp_path / "results")]
    done = hostile("run", str(study), *results)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\S+/t+ is no place for Ray's sockets; they are in \S+\n", done.stderr)
    (row,) = csv.DictReader(io.StringIO(said("query", "SELECT * FROM trials", "--csv", *results)))
    assert (row["method"], row["status"]) == ("kd", "completed")
    # In this process it is the same trial: as many threads, the same precision, the same numbers.
    shown = hostile("trial", str(study), "method=kd", *results)
    assert shown.returncode == 0, shown.stderr
    for key in ("config_key", "val_acc", "test_acc"):
        assert re.search(rf"^{key} +{re.escape(row[key])} *$", shown.stdout, re.MULTILINE), key
