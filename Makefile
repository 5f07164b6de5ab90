# make run    the main job on the bundled data      make test      lint, types and the fast tests
# make bench  the ingest and search benchmarks      make test-all  the slow tests too
# make reliability  faults by the thousand, and docs/reliability.md written from what came of them (20 min)
# make asv    the suite of asv_bench/ once, on what is installed
# make peers  us beside other libraries, into docs/peers.md, within MINUTES=36 (QUICK=--quick: a glance; DATA=folder of the full set)
# make scale  curves over 10 thousand to a million rows, into docs/scale.md (15 min)
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := pyproject.toml setup.py $(wildcard lsmtensor/kernels/cython/*.pyx lsmtensor/kernels/cython/*.pxi lsmtensor/kernels/cython/*.h lsmtensor/rows/*.px[iy])

help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("lsmtensor needs Python 3.11 or newer; make PYTHON=/path/to/python3.11 …" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment; install its venv module" >&2; exit 1; }

# the stamps keep the install until what it was built from changes; [dev] holds all of [bench]
.venv/base: $(SOURCES) | $(BIN)/python
	$(PIP) --editable '.[bench]'
	@$(SAY_KERNELS)
	@touch $@

.venv/dev: $(SOURCES) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@$(SAY_KERNELS)
	@touch .venv/base $@

SAY_KERNELS = $(BIN)/python -c "import lsmtensor; print('kernels:', *(f'{k} ({v})' for k, v in lsmtensor.kernels.available().items()), sep='\n  ')"

run: .venv/base
	$(BIN)/lsmtensor run

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m 'not slow'

# of builds of one version pip takes the one that says +cpu, where the index has it
TORCH ?= torch==2.13.0
test-all: lint
	$(PIP) jax '$(TORCH)' || echo 'PyTorch or JAX does not install here: their tests are skipped'
	$(BIN)/python -m pytest

reliability: .venv/dev
	$(BIN)/python -m lsmtensor.testing.reliability docs/reliability.md

bench: .venv/dev
	$(BIN)/lsmtensor bench ingest
	$(BIN)/lsmtensor bench ann

asv: .venv/dev
	cd asv_bench && ../$(BIN)/python -m asv machine --yes && ../$(BIN)/python -m asv run --quick -E existing --launch-method forkserver

MINUTES ?= 36
peers: .venv/dev
	$(PIP) '.[peers]' || $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"], sep="\n")' \
		| while read -r peer; do $(PIP) "$$peer" || echo "$$peer does not install here: left out"; done
	$(BIN)/python -m lsmtensor.bench.peers $(QUICK) $(if $(DATA),--data '$(DATA)') --minutes $(MINUTES) docs/peers.md

scale: .venv/dev
	$(BIN)/lsmtensor bench scale --rounds 1 --warmup 0 --out runs
	$(BIN)/python -m lsmtensor.bench.scale_page runs/scale.jsonl docs/scale.md

.PHONY: help run lint test test-all reliability bench asv peers scale
