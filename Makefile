# make run    the main job on the bundled data      make test      lint, types and the fast tests
# make bench  the ingest and search benchmarks      make test-all  the slow tests too
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard lsmtensor/kernels/cython/*.pyx lsmtensor/kernels/cython/*.h)

help:
	@sed -n 's/^# //p' Makefile

.venv/base: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lsmtensor needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: .venv/base
	$(BIN)/lsmtensor run

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m 'not slow'

test-all: lint
	$(BIN)/python -m pytest

bench: .venv/dev
	$(BIN)/lsmtensor bench ingest
	$(BIN)/lsmtensor bench ann

.PHONY: help run lint test test-all bench
