"""What a process leaves alone of the user's environment, in fresh processes. (Sweeps: chaos.)"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.sweeps.surroundings import COUNTS, SLOW, Steadfast, thread_counts

ROOT = Path(__file__).parents[2]
SETTLE = "from orchestrator.sweeps.surroundings import settle; settle(); "


def program(text, *, cwd, environment=None, shell="", start=("-c",)):
    """Runs Python that has settled; returns what it says as JSON."""
    command = [sys.executable, *start, text]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_threads_are_nobodys_business(tmp_path):
    names = [*COUNTS, "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "OMP_THREAD_LIMIT"]
    text = SETTLE + f"import os, json; print(json.dumps([n for n in {names} if n in os.environ]))"
    for value in ("7", "2,1", ""):
        done = program(text, cwd=tmp_path, environment=dict.fromkeys(names, value))
        assert json.loads(done.stdout) == []
    assert thread_counts(2.0)["OMP_NUM_THREADS"] == "2"
    assert thread_counts(0.5)["MKL_NUM_THREADS"] == "1"


def test_what_makes_every_import_slow_is_not_handed_on(tmp_path):
    """Ray starts a dozen processes, each of which would compile torch anew."""
    text = SETTLE + f"import os, json; print(json.dumps([n for n in {SLOW} if n in os.environ]))"
    done = program(text, cwd=tmp_path, environment={"PYTHONOPTIMIZE": "1", "PYTHONVERBOSE": ""})
    assert json.loads(done.stdout) == []


def test_one_thread_in_torch_on_all_cores(tmp_path):
    """libgomp pins the process that loads it, and with it all that it starts."""
    begin = (
        "import os; os.sched_setaffinity(0, range(os.cpu_count())); mine = os.sched_getaffinity(0);"
    )
    text = begin + SETTLE + "import torch; print(os.sched_getaffinity(0) == mine)"
    pinned = {"OMP_PROC_BIND": "true", "OMP_PLACES": "{0}", "GOMP_CPU_AFFINITY": "0"}
    assert program(text, cwd=tmp_path, environment=pinned).stdout == "True\n"


@pytest.mark.parametrize("path", [str(ROOT), f":{ROOT}", f"{ROOT}:", f"{ROOT}::/nowhere"])
def test_nothing_is_imported_from_the_working_folder(tmp_path, path):
    for name in ("profile", "numpy", "trainables", "search_spaces"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the user')\n")
    text = SETTLE + (
        "import profile, numpy, trainables.errors, search_spaces.spec, subprocess, sys;"
        "print(subprocess.run([sys.executable, '-c', 'import profile, numpy']).returncode)"
    )
    assert program(text, cwd=tmp_path, environment={"PYTHONPATH": path}).stdout == "0\n"


def test_run_as_a_module_in_a_clone_it_is_this_clone(tmp_path):
    """Its packages lie in the working folder, and so may a file of the user."""
    text = "import orchestrator.cli, trainables.errors as t; print(t.__file__)"
    (tmp_path / "numpy.py").write_text("raise RuntimeError('of the user')\n")
    for name in ("orchestrator", "search_spaces", "trainables"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = program(SETTLE + text, cwd=tmp_path, environment={"PYTHONPATH": ""})
    assert "trainables" in done.stdout


def test_a_package_that_is_installed_is_still_found(tmp_path):
    """Methods of other packages, by their entry points."""
    site = tmp_path / "site"
    meta = site / "other-1.0.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[kdsweep.terms]\nmine = other_terms:Mine\n")
    (site / "other_terms.py").write_text("class Mine: pass\n")
    text = SETTLE + (
        "from importlib.metadata import entry_points;"
        "print([found.load().__name__ for found in entry_points(group='kdsweep.terms')])"
    )
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    assert program(text, cwd=work, environment=environment).stdout == "['Mine']\n"


def test_a_warning_is_no_error(tmp_path):
    text = SETTLE + "import warnings; warnings.warn('old'); print('went on')"
    done = program(text, cwd=tmp_path, environment={"PYTHONWARNINGS": "error"})
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp1252"])
def test_letters_that_cannot_be_printed_are_escaped(tmp_path, encoding):
    text = SETTLE + "print('τ = 4, λ')"
    done = program(text, cwd=tmp_path, environment={"PYTHONIOENCODING": encoding})
    assert done.stdout == "\\u03c4 = 4, \\u03bb\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path, closed):
    """No file that is opened later may get the place of stdout, and what is printed there."""
    text = SETTLE + (
        "import sys, os; file = open('data', 'w'); print('shown'); print('said', file=sys.stderr);"
        "os.write(1, b'by a library\\n'); assert file.fileno() > 2; assert sys.stdin.read() == '';"
        "sys.stdout.isatty(); file.write('kept')"
    )
    shell = closed if "<" in closed else f"{closed} </dev/null"
    program(text, cwd=tmp_path, shell=shell)
    assert (tmp_path / "data").read_text() == "kept"


def test_a_working_folder_that_is_gone_is_named(tmp_path):
    shell = f'cd {tmp_path}; mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-m", "orchestrator.cli", "studies"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    line = "kdsweep: the working folder is not there any more; change to one that is\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


class Full(io.StringIO):
    """A stream on a disk that is full for a while."""

    full = True

    def write(self, text):
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_what_is_shown_goes_on_when_a_disk_has_space_again(capsys):
    stream = Full()
    steadfast = Steadfast(stream)
    steadfast.write("lost\n")
    steadfast.write("lost\n")
    stream.full = False
    steadfast.write("shown\n")
    assert stream.getvalue() == "shown\n"
    line = "kdsweep: what is shown here is lost ([Errno 28] No space left on device)"
    assert capsys.readouterr().err == f"{line}; the work goes on\n"


def test_a_reader_that_has_gone_is_told_of_on_stderr(tmp_path):
    text = SETTLE + (
        "import sys; from orchestrator.sweeps.surroundings import Steadfast; "
        "s = Steadfast(sys.stdout); s.write('a'); s.flush(); s.write('b'); s.flush(); "
        "print('the end')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", text],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    os.close(writer)
    line = "kdsweep: what is shown here is lost ([Errno 32] Broken pipe); the work goes on"
    assert (done.returncode, done.stderr.splitlines()) == (0, [line, "the end"])
