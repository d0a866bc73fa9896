# Tidegate: `make demo` shows the whole chain, `make test` checks it. Both do all the set-up they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := $(CURDIR):$(CURDIR)/operator:$(CURDIR)/trainer_image:$(CURDIR)/serving_image
FAST := not apiserver and not cluster and not mlflow and not slow and not triton

.PHONY: help venv check lint test e2e demo benchmarks up install down load generate lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: venv ## Local cluster, training, releases, bad releases: the whole chain, live
	$(BIN)/python -m dev.demo

# What the cluster lacks is built while the tests of logic run, at the lowest priority; `set -m` gives it a process group to end.
test: ## Lint, types and every test, end to end on the local cluster included
	@echo "==> programs and images of the local cluster that are missing are built alongside (from nothing about half an hour)"
	@set -m; nice -n 19 $(PYTHON) -m dev.cluster build >/dev/null 2>&1 & \
	trap "kill -- -$$! 2>/dev/null" EXIT; \
	$(MAKE) --no-print-directory lint tests

.PHONY: tests
tests:
	@echo "==> tests of logic and of the router with a real Envoy, on all cores"
	@failed=0; $(BIN)/python -m pytest -m "not alone" --numprocesses auto --dist worksteal -q || failed=1; \
	echo "==> tests that train or start programs (API server, Triton, MLflow, Prometheus), then everything on the local cluster"; \
	$(BIN)/python -m pytest -m alone --durations=15 && exit $$failed

e2e: venv ## The tests on the local cluster alone
	$(BIN)/python -m pytest -m cluster

check: lint ## Lint, types and the fast tests
	$(BIN)/python -m pytest -m "$(FAST)" -q --numprocesses auto --dist worksteal

lint: venv
	@echo "==> lint, types, layers, generated files"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tidegate.api.crd --check
	$(BIN)/python -m tidegate.api.reference --check

benchmarks: venv ## Measure everything and write docs/benchmarks.md; NAMES=... for some of it
	$(BIN)/python -m tests.benchmarks $(NAMES)

up: venv ## Start the local cluster and load the images
	$(BIN)/python -m dev.cluster up
	$(BIN)/python -m dev.cluster load

install: venv ## Install Tidegate on the local cluster with its Helm chart
	$(BIN)/python -m dev.installation

down: ## Stop the local cluster; nothing is left running
	$(PYTHON) -m dev.cluster down

load: venv ## Build the images and load them into the local cluster
	$(BIN)/python -m dev.cluster load

generate: venv ## Write the CRDs, the chart's copy, the reference pages and the contract schemas anew
	$(BIN)/python -m tidegate.api.crd
	$(BIN)/python -m tidegate.api.reference
	$(BIN)/python -m tidegate_trainer.contract docs/contracts
	$(BIN)/python -m dev.schemas
	$(BIN)/python -m tidegate_serving.contract

lock: venv ## Pin every dependency anew, with hashes
	$(BIN)/python -m dev.lock

# The stamp holds the checksum of the lock: another checkout or a changed lock installs again, an unchanged one does nothing.
# Where there is uv, it links what it has in its cache: seconds instead of minutes.
venv:
	@want=$$(sha256sum dev/requirements.txt | cut -d' ' -f1); \
	if [ "$$(cat $(VENV)/.lock 2>/dev/null)" != "$$want" ]; then \
	  echo "==> Python packages into $(VENV) (torch is large: about five minutes; with uv seconds from its second time on)"; \
	  $(PYTHON) -c 'import sys; sys.exit("Tidegate needs Python 3.11 or newer; set PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None' && \
	  { [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); } && \
	  if uv --version >/dev/null 2>&1; then set -- uv pip install --python $(BIN)/python; else set -- $(BIN)/python -m pip install; fi && \
	  "$$@" --quiet --require-hashes -r dev/requirements.txt && \
	  echo "$$want" > $(VENV)/.lock; \
	fi

clean: down ## Remove the virtual environment and the caches of tools
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
