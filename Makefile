# Everything a newcomer needs: `make run`, then `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test check bench install clean

run: $(VENV)/.run-installed
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/labspawner up $(ARGS)

# First all that may run side by side, then what measures; either may be empty where ARGS names files (status 5).
# Only files that name the marker are read again: reading all takes twenty seconds.
ALONE = $(shell grep -rlE 'mark\.alone' tests --include='*.py')
PYTEST := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest
test: $(VENV)/.dev-installed
	$(PYTEST) -n 4 --dist worksteal -m "not alone" $(ARGS) || [ $$? -eq 5 ]
	$(PYTEST) -m alone $(filter-out --cov%,$(ARGS)) $(if $(filter tests/%,$(ARGS)),,$(ALONE)) || [ $$? -eq 5 ]

check: $(VENV)/.dev-installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# All that test and check need, and nothing else.
install: $(VENV)/.dev-installed

bench: $(VENV)/.dev-installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/labspawner bench $(or $(ARGS),engine)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

NATIVE := native/CMakeLists.txt $(wildcard native/src/* native/stub/* native/abi/*)

$(VENV)/.run-installed: $(BIN)/python pyproject.toml $(NATIVE)
	@echo "Installing labspawner into $(VENV), once; this takes a minute ..."
	$(BIN)/python -m pip install --quiet --editable '.[local]'
	@touch $@

$(VENV)/.dev-installed: $(BIN)/python pyproject.toml $(NATIVE)
	@echo "Installing labspawner and its test tools into $(VENV), once; this takes a minute or two ..."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.run-installed

clean:
	rm -rf $(VENV) build dist .labspawner
