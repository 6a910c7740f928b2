# `make setup` makes a virtual environment with everything that running and testing need; the others call it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests never use the network. Real data is used where it lies beside the project, and only there.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
ifneq ($(wildcard ../shared/data),)
export GRAFT_TEST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: setup check test coverage demo format clean

setup: $(STAMP)

# torch comes first and by its exact version, so that nothing else decides which build of it is installed.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev]'
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Its processes share the cores, where threads that wait busily hold up the others.
test: export GOMP_SPINCOUNT := 1000
test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# Which lines the tests reach, in this process; what they start in others is not counted.
coverage: setup
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

# The training part takes a few minutes on two cores; everything lies in runs/demo.
demo: setup
	$(BIN)/python scripts/demo.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
