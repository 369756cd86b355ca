# Every target works in a fresh clone: it needs only make and a Python of 3.11 or later, and builds .venv by itself.
# Another Python:      make test PYTHON=/path/to/python3
# Another environment: make check VENV=.venv-3.13

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python on the path that is new enough and can make environments.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
READY := $(VENV)/.ready
COVERAGE := $(BIN)/python -m coverage

# The suites that every supported Python runs; those that are not there yet are left out.
CORE := $(wildcard tests/core tests/model tests/store tests/engine)
# The suites that must cover model and core whole; being pure, they do not need the rest for it.
PURE := tests/core tests/model
# How users write it: read by the type checker only.
TYPING := $(wildcard tests/typing)
# More options for pytest: make test PYTEST="-k retry"
PYTEST ?=
# Processes that share the tests: one more than the cores of a small machine, as many tests wait for other processes.
WORKERS ?= 3
SHARED := --numprocesses $(WORKERS) --dist worksteal
# Compiled files are kept, whoever asks for none: each of the hundreds of processes in the tests begins in half the time.
unexport PYTHONDONTWRITEBYTECODE
# The stores that are measured: make bench STORE=sqlite,postgres,redis,redis-fsync
STORE ?=
ON = $(if $(STORE),--store $(STORE))

.PHONY: help demo test check lint pure core contract supported bench bench-peers bench-large bench-contention bench-queues bench-graphs bench-server bench-serve bench-deliveries bench-pages lock format clean venv

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(READY) ## a workflow that survives its worker being killed, in your terminal
	@$(BIN)/perdure demo

test: lint pure ## the whole gate: the linters, every test, branch coverage
	@$(BIN)/python -m pytest $(SHARED) $(addprefix --ignore=,$(PURE)) $(PYTEST)

pure: $(READY) ## the suites of model and core, which cover both whole
	@$(BIN)/python -m pytest $(PURE) --cov --cov-branch --cov-report= $(PYTEST)
	@$(COVERAGE) report --include='src/perdure/model/*,src/perdure/core/*' --fail-under=100 > $(VENV)/pure.txt \
		|| { cat $(VENV)/pure.txt; echo "perdure.model and perdure.core must be covered whole, branches too"; exit 1; }

check: lint core ## under a minute: the linters, and the suites of model, core, store and engine, without servers

lint: $(READY) ## formatting, ruff, mypy --strict, the layers, spelling
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check . || true; echo "make format repairs this"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --strict src/perdure bench $(TYPING)
	@$(BIN)/lint-imports --no-logo > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }
	@$(BIN)/codespell src tests $(wildcard docs *.md)

core: $(READY) ## the suites of model, core, store and engine, without servers and linters
	@$(BIN)/python -m pytest $(SHARED) -m "not server" $(CORE) $(PYTEST)

contract: $(READY) ## what every store promises, on PostgreSQL and Valkey, but for what random testing finds
	@$(BIN)/python -m pytest $(SHARED) -m contract tests/store $(PYTEST)

supported: $(READY) ## core and contract together: what every supported Python has to pass
	@$(BIN)/python -m pytest $(SHARED) -m "contract or not server" $(CORE) $(PYTEST)

bench: $(READY) ## the benchmarks; on another store: make bench STORE=postgres
	@$(BIN)/python -m bench $(ON)

bench-peers: $(READY) ## the same work on other engines
	@$(BIN)/python -m bench --peers $(ON)

bench-large: $(READY) ## what a claim, a commit and a look cost beside a million runs
	@$(BIN)/python -m bench.large $(ON)

bench-contention: $(READY) ## one to eight worker processes on one store
	@$(BIN)/python -m bench.contention $(ON)

bench-queues: $(READY) ## tasks on queues, beside the queues in use today
	@$(BIN)/python -m bench.queues

bench-graphs: $(READY) ## graphs beside functions, and a map over ten thousand items
	@$(BIN)/python -m bench.graphs $(ON)

bench-server: $(READY) ## starts over HTTP, beside a bare route
	@$(BIN)/python -m bench.server $(ON)

bench-deliveries: $(READY) ## messages delivered and accepted, beside a bare httpx loop
	@$(BIN)/python -m bench.deliveries $(ON)

bench-serve: $(READY) ## workflows served over HTTP, beside a worker
	@$(BIN)/python -m bench.serve $(ON)

bench-pages: $(READY) ## every list and run page beside a million runs
	@$(BIN)/python -m bench.server_pages $(ON)

format: $(READY) ## format, and repair what can be repaired
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lock: requirements/dev.in ## pin requirements/dev.txt anew, with the hashes of every file
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip --quiet install pip-tools
	@.venv-lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file=.venv-lock/dev.txt $<
	@{ sed -n '/^#/p; /^#/!q' requirements/dev.txt; cat .venv-lock/dev.txt; } > .venv-lock/whole.txt
	@! grep -nE '://|^-|[^ ]@ ' .venv-lock/whole.txt || { echo "an address got into the lock"; exit 1; }
	@mv .venv-lock/whole.txt requirements/dev.txt && rm -rf .venv-lock

venv: $(READY) ## only the environment

$(READY): pyproject.toml requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "Perdure needs Python 3.11 or later, with venv; say where: make PYTHON=..."; exit 1; }
	@echo "preparing $(VENV) with $$($(PYTHON) --version)"
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install -qq --require-hashes -r requirements/dev.txt
	@$(PIP) install -qq --no-deps --no-build-isolation --no-index -e .
	@touch $@

clean: ## remove the environments and everything that was made
	@rm -rf .venv .venv-* .coverage .coverage.* htmlcov dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
