# Every target sets up what it needs in .venv; a stamp there makes that happen once, and again when pyproject.toml changes.
PYTHON ?= python3
export PYTHON
# Where it is set, each of the hundreds of processes that tests start would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
DEV := .venv/.installed-dev
BENCH := .venv/.installed-bench
# The tests wait most of the time: for heartbeats, for brokers to start. The tests of one file share what is slow to start.
SIDE_BY_SIDE ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help check test test-docker chaos demo bench bench-beats bench-killers bench-wave broker up down format clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

check: $(DEV) ## Format, lint, types, import contracts and unit tests: what CI runs first
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 tests/unit

test: $(DEV) ## Run the whole test suite against a real broker, which is set up if there is none
	$(BIN)/python -m deploy.local.install
	$(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS)

test-docker: ## Run the test suite inside the image of RabbitMQ 4.3 (ARGS=tests/system chooses)
	@DOCKER_BUILDKIT=1 docker build --file tests/Dockerfile --tag warren-tests \
		$${PIP_CONFIG_FILE:+--secret id=pip,src="$$PIP_CONFIG_FILE"} .
	@docker run --rm --init --ulimit core=0 --ulimit nofile=16384:16384 --env PYTEST_ADDOPTS \
		--volume warren-tests-cache:/tmp/cache warren-tests $(SIDE_BY_SIDE) $(ARGS)

# Load and faults follow from SEED, a new one by default; MINUTES=60 is the long form.
SYSTEMS ?= warren,celery,dramatiq
TASKS ?= 20000
MINUTES ?= 10
chaos: $(BENCH) ## Kill, freeze and cut off everything under load, on Warren, Celery and Dramatiq (MINUTES=60 SEED=7)
	$(BIN)/python -m tests.chaos --tasks $(TASKS) --minutes $(MINUTES) --systems $(SYSTEMS) $(if $(SEED),--seed $(SEED)) $(ARGS)

demo: $(DEV) ## Count the words of Python's standard library on two workers, killing one half-way
	$(BIN)/python -m deploy.demo

bench: $(BENCH) ## Measure Warren and, on the same broker, Celery, Dramatiq and Taskiq
	$(BIN)/python -m tests.bench

bench-beats: $(BENCH) ## Measure what the beats of up to 200 workers cost
	$(BIN)/python -m tests.bench.beats

bench-killers: $(BENCH) ## Show what a task that kills its worker does to Warren, Celery, Dramatiq and Taskiq
	$(BIN)/python -m tests.bench.killers

bench-wave: $(DEV) ## Measure how workers in Docker Compose follow a wave of load
	$(BIN)/python -m tests.bench.wave

broker: $(DEV) ## Keep a broker of your own in the foreground until Ctrl-C
	@$(BIN)/python -m deploy.local.broker

up: $(DEV) ## Start the whole system with Docker Compose
	$(BIN)/python -m deploy.compose up

down: $(DEV) ## Stop what `make up` has started
	$(BIN)/python -m deploy.compose down

format: $(DEV) ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove .venv and every cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEV): pyproject.toml
	@echo "Setting up .venv..."
	@sh deploy/local/setup.sh dev
	@touch $@

$(BENCH): pyproject.toml $(DEV)
	@sh deploy/local/setup.sh bench
	@touch $@
