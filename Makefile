# What a contributor types. Everything goes through the two doors that a stranger uses, `python3 tests` and
# `python3 daemon`, so there is nothing to set up first.

PYTHON ?= python3
PYTEST := $(PYTHON) tests
BIN    := $(or $(PGCACHEWATCH_VENV),.venv)/bin
SEED   ?=

.DEFAULT_GOAL := help
.PHONY: help setup format check test every-server simulate checker checker-original bench run lock

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:
	@$(PYTEST) --version

format: setup  ## Format the code, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: setup  ## Format, lint, import contracts, types, tidy tests, unit tests: a minute and a half
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(PYTEST) -q -m "not slow and not every_server" --deselect tests/tidy/test_static_checks.py \
		tests/tidy tests/client tests/daemon tests/config tests/deploy

test: ## All tests
	$(PYTEST)

every-server:  ## The tests that run on every PostgreSQL version found
	$(PYTEST) -m every_server

simulate:  ## The seeded simulation: make simulate SEED=42
	$(if $(SEED),PGCW_SEED=$(SEED)) $(PYTEST) tests/simulation

checker: setup  ## The stale-read checker on a real PostgreSQL: make checker DURATION=600 SEED=1 MODE=journal
	$(BIN)/python -m tests.checker --duration $(or $(DURATION),60) $(if $(SEED),--seed $(SEED)) $(if $(MODE),--mode $(MODE))

checker-original: setup  ## The same with the original library, for the table in the README
	$(BIN)/python -m tests.checker --original --duration $(or $(DURATION),60) $(if $(SEED),--seed $(SEED))

.PHONY: losses
losses:  ## Does the journal lose anything while all is killed, on each version: make losses DURATION=60 SEED=1
	PGCW_LOSSES_S=$(or $(DURATION),60) $(if $(SEED),PGCW_LOSSES_SEED=$(SEED)) \
		$(PYTEST) -n0 -s -q -k no_change tests/integration/test_journal_losses.py

.PHONY: soak
soak: setup  ## Mixed load with faults on one relay, is its memory flat: make soak DURATION=3600 SEED=1 KEEP=folder
	$(BIN)/python -m tests.soak --duration $(or $(DURATION),3600) $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep $(KEEP))

bench: bench-fanout bench-client  ## All benchmarks in full, about an hour and a half; want a quiet machine

.PHONY: bench-fanout bench-client bench-peers bench-gate
bench-fanout: setup  ## The fan-out beside its peers: make bench-fanout ARGS="--cases c100-10 --peers ours,nats"
	$(BIN)/python -m tests.bench.fanout $(ARGS)

bench-client:  ## The benchmarks of client and triggers in full (PGCW_BENCH=1), in one process
	PGCW_BENCH=1 $(PYTEST) -n0 -s -q tests/bench

bench-peers: setup  ## Install the fan-out's peers: into .bench_cache, and as root Debian's packages too
	PGCW_BENCH_INSTALL=1 $(BIN)/python -m tests.bench.fanout --install

bench-gate: setup  ## Fail when a delivery costs over twice the C send() loop's: half a minute
	$(BIN)/python -m tests.bench.fanout --gate

.PHONY: bench-triggers
bench-triggers:  ## What triggers cost writers: none, the original's, row by row, ours
	PGCW_BENCH=1 $(PYTEST) -n0 -s -q tests/bench/test_triggers.py

.PHONY: bench-writers
bench-writers:  ## Commits per second of 1 to 32 writers: no trigger, the original's, direct, journal
	PGCW_BENCH=1 $(PYTEST) -n0 -s -q tests/bench/test_writers.py

.PHONY: bench-journal
bench-journal:  ## Journal mode: latency beside direct, under load, a relay's CPU, and its restart with 1,000 clients
	PGCW_BENCH=1 $(PYTEST) -n0 -s -q tests/bench/test_journal.py tests/bench/test_journal_restart.py

.PHONY: bench-hitratio
bench-hitratio:  ## How many database reads a cache saves: the original, by table, by row
	PGCW_BENCH=1 $(PYTEST) -n0 -s -q tests/bench/test_hit_ratio.py

.PHONY: lane-container
lane-container: setup  ## Image, compose.yaml and testcontainers on a real engine; starts one of its own where none is
	$(BIN)/python -m tests.lanes.container $(ARGS)

.PHONY: lane-systemd
lane-systemd: setup  ## The unit under a systemd that is process 1 of a Debian of its own; needs root and mmdebstrap
	$(BIN)/python -m tests.lanes.systemd $(ARGS)

.PHONY: audit
audit: setup  ## Known vulnerabilities of what the relay is shipped with: skipped where the database can not be reached
	$(BIN)/python -m tests.lanes.audit

run:  ## The relay on PGCACHEWATCH_DSN, or the demo without it
	$(PYTHON) daemon

# Needs uv. The locks hold no address: they work with whatever registry pip and uv are set up for.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock:  ## Bring deploy/locks up to date with pyproject.toml
	$(COMPILE) --upgrade --extra dev pyproject.toml --output-file deploy/locks/dev.txt
	sed -n 's/^\([^ ]*==[^ ]*\).*/\1/p' deploy/locks/dev.txt > deploy/locks/tested.in
	$(COMPILE) --extra daemon --constraint deploy/locks/tested.in pyproject.toml --output-file deploy/locks/daemon.txt
	$(COMPILE) --extra daemon --extra otel --constraint deploy/locks/tested.in pyproject.toml \
		--output-file deploy/locks/otel.txt
	sed -n '/^\[build-system\]/,/^\[/s/^requires = \["\(.*\)"\]/\1/p' pyproject.toml \
		| $(COMPILE) --constraint deploy/locks/tested.in - --output-file deploy/locks/build.txt
	rm deploy/locks/tested.in
