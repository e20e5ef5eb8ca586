# make demo: from a clone to an accuracy-versus-compression table and picture.
# make test: the whole test suite. Both make .venv and install by themselves.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WHAT := -c constraints.txt -e '.[dev]'

# What is imported is compiled once, also where the environment says that Python is to write nothing.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test soak lint format bench clean

demo: $(VENV)/installed
	$(BIN)/kdsweep run digits
	$(BIN)/kdsweep table
	$(BIN)/kdsweep front
	$(BIN)/kdsweep plot

# A worker per core, with one thread each; who is done takes tests from the others. As in trials,
# glibc keeps freed pages.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_MMAP_THRESHOLD_=4294967296 \
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# Kills everything that a sweep consists of, again and again; trains all pairs with all terms.
soak: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python tests/benchmarks/engine.py --rounds 3 --json tests/benchmarks/results
	$(BIN)/python tests/benchmarks/overhead.py --json tests/benchmarks/results/overhead.json
	$(BIN)/python tests/benchmarks/store.py
	$(BIN)/python tests/benchmarks/teacher_table.py
	$(BIN)/python tests/benchmarks/masks.py
	$(BIN)/python tests/benchmarks/attribution_terms.py
	$(BIN)/python tests/benchmarks/explainers.py --json tests/benchmarks/results/explainers.json
	$(BIN)/python tests/benchmarks/ig_overlay.py --json tests/benchmarks/results/ig_overlay.json
	$(BIN)/python tests/benchmarks/ig_maps.py --json tests/benchmarks/results/ig_maps.json

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Made anew whenever what it is made from has changed. uv unpacks on all cores and takes a quarter of
# pip's time, but does not read pip's settings: who told pip of another index, or of none, gets pip.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdsweep needs Python 3.11 or newer; set PYTHON=python3.12 or the like")'
	$(PYTHON) -m venv $(VENV)
	! $(PIP) config list | grep -Eq "index-url='http|no-index=" && $(PIP) install --quiet uv && \
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --system-certs $(WHAT) || $(PIP) install --quiet $(WHAT)
	$(BIN)/kdsweep methods > /dev/null 2>&1 & # what each costs is counted once, before somebody waits
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
