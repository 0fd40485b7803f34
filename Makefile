# `make` alone prints the targets. Every path is relative, so that the project may live under a path with a space.

.DEFAULT_GOAL := help
.SUFFIXES:

PYTHON ?=
BIN := .venv/bin
STAMP := .venv/installed

# The console scripts know the directory in which they were installed: a project that was moved is installed again.
ifneq ("$(shell cat $(STAMP) 2>/dev/null)","$(shell pwd -P)")
.PHONY: $(STAMP)
endif

.PHONY: help
help: ## Print this list
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-10s %s\n", $$1, $$2 }'

.PHONY: install
install: $(STAMP) ## Make .venv from requirements.lock, with Python 3.11 to 3.14 (PYTHON=... for a certain one)

# A name on PATH proves nothing: a version manager puts names there that fail when they are called. So each is tried.
$(STAMP): requirements.lock pyproject.toml
	@set -e; python=; for candidate in $(if $(PYTHON),"$(PYTHON)",python3.12 python3.13 python3.14 python3.11 /usr/bin/python3.12 /usr/bin/python3.13 /usr/bin/python3.11 python3); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: no working Python 3.11 to 3.14 with its venv module. Install one (on Debian also python3-venv), or: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "Installing into .venv, a minute the first time ..."; \
	if [ "$$(cat $(STAMP) 2>/dev/null)" != "$$(pwd -P)" ]; then rm -rf .venv; fi; \
	if ! $(BIN)/python -c '' 2>/dev/null; then "$$python" -m venv .venv; fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	pwd -P > $(STAMP); \
	echo "Installed. The command is $(BIN)/caselog"

.PHONY: run
run: $(STAMP) ## Run the whole pipeline on its own servers, with simulated cases (Ctrl-C stops it)
	@exec $(BIN)/python $(BIN)/caselog up --demo

# Tests wait for processes a good part of their time: three at once keep two cores busy. Each has servers of its own.
JOBS ?= 3

.PHONY: test
test: $(STAMP) ## Run the tests, on servers that they start (ARGS="-k name" for some of them, JOBS=0 one by one)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# What needs no process of its own: the rules, the fold, the message, and the files of the house.
QUICK := tests/events tests/test_compose.py tests/test_kubernetes.py tests/test_grafana.py tests/test_runbook.py tests/test_citations.py

.PHONY: test-quick
test-quick: $(STAMP) ## Run the tests that start no server and no process, in about a minute (ARGS as for test)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(QUICK) $(ARGS)

.PHONY: check
check: $(STAMP) ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	@set -e; for folder in $$(find tests benchmarks -name '*.py' -exec dirname {} \; | sort -u); do \
	  echo "$(BIN)/python -m mypy $$folder/*.py"; $(BIN)/python -m mypy $$folder/*.py; \
	done
	$(BIN)/python $(BIN)/lint-imports

# Smaller than bench-all, and so quicker; both write what they found to docs/benchmarks.
.PHONY: bench
bench: $(STAMP) ## Measure this machine against the usual ways, some nine minutes, and say which bounds are met
	$(BIN)/python benchmarks/throughput.py --events 60000 --rounds 2 $(ARGS)
	$(BIN)/python benchmarks/publishing.py
	$(BIN)/python benchmarks/latency.py --seconds 10
	$(BIN)/python benchmarks/growth.py --logs 1000000 --events 60000 --rounds 3 --prove
	$(BIN)/python benchmarks/recovery.py --backlog 100000
	$(BIN)/python benchmarks/poison_batch.py
	$(BIN)/python benchmarks/bounds.py

# At full size: a log of ten million, a backlog of a million. The machine should have nothing else to do meanwhile.
.PHONY: bench-all
bench-all: $(STAMP) ## The same at full size: a log of ten million, a backlog of a million; twenty minutes to an hour
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/publishing.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/growth.py --logs 1000000 10000000
	$(BIN)/python benchmarks/recovery.py --backlog 1000000
	$(BIN)/python benchmarks/poison_batch.py
	$(BIN)/python benchmarks/bounds.py

SECONDS ?= 120
BROKER ?= redis
.PHONY: chaos
chaos: $(STAMP) ## Break a whole pipeline for SECONDS=120 on BROKER=redis or rabbitmq, by SEED=...; nothing may be lost
	PYTHONPATH=tests $(BIN)/python tests/system/chaos/rig.py --seconds $(SECONDS) --broker $(BROKER) $(if $(SEED),--seed $(SEED)) $(ARGS)

RATE ?= 200
.PHONY: soak
soak: SECONDS = 3600
soak: $(STAMP) ## Load a whole pipeline for SECONDS=3600 at RATE=200 events a second: nothing may grow (ARGS=--overload)
	PYTHONPATH=tests $(BIN)/python tests/system/load/soak.py --seconds $(SECONDS) --rate $(RATE) --broker $(BROKER) $(ARGS)

.PHONY: migrate
migrate: $(STAMP) ## Bring the database of CASELOG_DATABASE_URL, or of a running `make run`, to the current schema
	$(BIN)/python $(BIN)/caselog migrate

# The packages of the examples for Node in docs/use-from-your-app.md, whose tests are skipped without them.
NODE_PACKAGES := amqplib@2.3.1 cloudevents@10.0.0 redis@6.3.1

.PHONY: node
node: $(STAMP) ## Install the npm packages that the examples for Node need into .venv/node (needs npm, Node 20 to 24)
	npm install --prefix .venv/node --no-save --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error $(NODE_PACKAGES)

.PHONY: lock
lock: ## Write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra workers --group dev pyproject.toml \
	  -o requirements.lock --no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: clean
clean: ## Delete .venv and what tools left (the data in .caselog stays)
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
