# Verbs of the project. Each sets up what it needs first; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
SEED ?= 1
MINUTES ?= 10
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test extras bench evidence chaos lint format clean

help: ## list what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

install: $(VENV)/.local ## the command .venv/bin/twinstream, and what its local stack needs

demo: $(VENV)/.local ## the main job end to end on real Kafka and Postgres (DATA=FILE takes your own table)
	@exec $(BIN)/twinstream demo $(if $(DATA),--data "$(DATA)")

# Whole files in the order of their names: the long ones, which have few tests, come before the unit tests and not one by one at the end.
# Three WORKERS on two processors: tests of the whole service wait for a fifth of their time, for timeouts and paced streams.
# Failures are shown when they happen; a test that hangs or ends its process fails, and holds nothing up.
# One thread for each process, as in the service: waiting OpenMP and BLAS threads spin, and take a third of the processors' time.
test: export OMP_NUM_THREADS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: export PYTHONDONTWRITEBYTECODE := # hundreds of processes import the code
test: $(VENV)/.dev ## every test, with real Kafka and real Postgres
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --timeout 900 --instafail --durations 25

extras: $(VENV)/.dev ## tests of the extras causal (DoWhy) and feast, each in an environment of its own
	@deploy/locks/test_extras.sh

bench: $(VENV)/.dev ## speed and memory, as ratios against a named baseline in the same run
	$(BIN)/python -m tests.bench

evidence: $(VENV)/.dev ## measure coverage, false alarms and realism on real data and simulated worlds; writes docs/evidence.html
	$(BIN)/python -m tests.evidence

chaos: $(VENV)/.dev ## inject faults for MINUTES (10) by the schedule of SEED (1), and check every count; status 1 when an invariant fails
	@exec $(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

lint: $(VENV)/.dev ## style, types and the import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## bring the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the virtual environment and the local stack's data
	rm -rf $(VENV) .twinstream

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# uv installs the many libraries of development in seconds where pip takes minutes; where only pip is told the way to an index, pip does.
# A service is installed with pip alone.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
UV := UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
LOCKED := --require-hashes -r deploy/locks
define install
	@echo "installing $(1) (locked, with hashes; a minute or two the first time)"
	@$(2)
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m deploy.stack fetch
endef

$(VENV)/.local: deploy/locks/local.txt pyproject.toml | $(BIN)/python
	$(call install,local,$(PIP) $(LOCKED)/local.txt)
	@touch $@

$(VENV)/.dev: deploy/locks/dev.txt pyproject.toml | $(BIN)/uv
	$(call install,dev,$(UV) $(LOCKED)/dev.txt || $(PIP) $(LOCKED)/dev.txt)
	@touch $(VENV)/.local $@

$(BIN)/uv: deploy/locks/uv.txt | $(BIN)/python
	@$(PIP) --no-deps --require-hashes -r $<
	@touch $@
