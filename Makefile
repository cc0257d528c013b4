# `make demo` and `make test` each make what they need. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The interpreter that makes the virtual environment: Python 3.11 or newer.
PYTHON ?= $(firstword $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3))
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed
ARGS ?=
# Tests use tiny models: more threads than cores only wait for each other.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TORCHDYNAMO_DISABLE=1
# How many processes share the tests, a file at a time. More than cores makes tests that wait for each other fail.
JOBS ?= 2
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Where torch comes from, if not from where pip looks by itself: https://download.pytorch.org/whl/cpu has it without CUDA.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --require-hashes --no-deps

# Another advisory service than osv.dev: make lint ADVISORIES=https://mirror.example/v1/query
ADVISORIES ?=
AUDITED = $(if $(ADVISORIES),--service $(ADVISORIES)) $(wildcard requirements*.txt)

.PHONY: help demo serve evaluate test unit lint audit format types figures tour release lock clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

demo: $(CORE) ## a real Label Studio, the backend, annotated samples; ARGS=--check verifies and stops
	@$(BIN)/int-backend demo $(ARGS)

serve: $(CORE) ## the backend on port 9090, for your own Label Studio
	@$(BIN)/int-backend serve $(ARGS)

evaluate: $(CORE) ## what the bundled models can do on held-out scenes, and the strategies side by side
	@scripts/ensure_test_tools.sh font
	@$(BIN)/python -m int_model.nano.evaluate $(ARGS)

test: lint types ## all that CI runs: linters, types, unit, integration and end-to-end tests
	@scripts/ensure_test_tools.sh
	@$(BIN)/int-backend demo --prepare
	@echo "== tests"
	@$(PYTEST) -m "not slow" $(ARGS)

unit: $(DEV) ## unit and integration tests only: no Label Studio, no browser
	@scripts/ensure_test_tools.sh no-browser
	@$(PYTEST) -m "not slow and not e2e" $(ARGS)

lint: $(DEV) ## ruff (rules and format), bandit, a look for secrets, and pip-audit where the network allows it
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== bandit"
	@$(BIN)/bandit --quiet --severity-level medium --recursive int_model ml_backend scripts benchmarks examples
	@echo "== secrets"
	@scripts/find_secrets.sh $(BIN)
	@echo "== known weaknesses"
	@$(BIN)/python scripts/audit.py $(AUDITED)

audit: $(DEV) ## known weaknesses of the pinned packages, as in lint, but fails if the advisory service cannot be asked
	@$(BIN)/python scripts/audit.py --needed $(AUDITED)

types: $(DEV) ## mypy, strict
	@echo "== mypy"
	@$(BIN)/mypy

format: $(DEV) ## mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

figures: $(DEV) ## print the figures of README and docs again, from docs/figures
	@$(BIN)/python scripts/figures.py

tour: $(DEV) ## take the pictures of docs/annotators.md anew, of the real Label Studio
	@scripts/ensure_test_tools.sh
	@INT_TOUR=docs/images $(TEST_ENV) $(BIN)/python -m pytest -m slow tests/e2e/test_tour.py

release: $(DEV) ## wheel, sdist and bill of materials into dist/, the wheel tried in a clean environment
	@$(LOCKED) -r requirements-release.txt
	@scripts/release.sh $(BIN)/python dist

lock: $(DEV) ## write requirements*.txt from the environment
	@$(LOCKED) -r requirements-release.txt
	@$(BIN)/python scripts/lock.py

clean: ## remove environments, caches, the demo's data
	rm -rf $(VENV) .venv-label-studio .demo artifacts build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@scripts/make_venv.sh "$(PYTHON)" $(VENV)

$(CORE): requirements.txt requirements-torch.txt pyproject.toml | $(BIN)/python
	@echo "== installing the backend into $(VENV) (the first time about 1.4 GB)"
	@$(LOCKED) -r requirements.txt
	@$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) -r requirements-torch.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(CORE) requirements-dev.txt
	@echo "== installing the test tools"
	@$(LOCKED) -r requirements-dev.txt
	@touch $@
