# `make help` lists every task.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help deps demo sim sim-soak test lint bench fuzz conformance clean

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

deps: $(STAMP) ## make the virtual environment with everything the other tasks need

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Slipstream needs Python 3.11 or newer; try 'make PYTHON=python3.11 $(MAKECMDGOALS)'" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP) ## update two sites of real agents on real images, then kill a gateway (under two minutes)
	$(BIN)/python -m benchmarks.demo

SCENARIO ?= bench-killed
SEED     ?= 1
SITE     ?= $(if $(filter bench-%,$(SCENARIO)),site)

sim: $(STAMP) ## simulate a ready scenario and leave work-sim/report.html (SCENARIO=<name or file>; SEED=<number>; SITE=<timeline of>)
	$(BIN)/slipstream sim run "$(SCENARIO)" --seed "$(SEED)" --out work-sim $(if $(SITE),--timeline "$(SITE)")

sim-soak: $(STAMP) ## random scenarios in virtual time, held to every rule (MINUTES=10; SEED=<first>; FAULTS=--no-faults; SITES=--plain)
	$(BIN)/slipstream sim soak --minutes "$(or $(MINUTES),10)" $(if $(SEED),--seed "$(SEED)") $(FAULTS) $(or $(SITES),--awkward) --out work-soak

lint: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) lint ## every test (those in network namespaces need root)
	$(BIN)/pytest -n auto

bench: $(VENV)/.bench ## every figure beside its goal (root for the site; SUITE=<tuf-conformance checkout>; WORK=<cache>)
	$(BIN)/python -m benchmarks $(if $(SUITE),--suite "$(SUITE)") $(if $(WORK),--work "$(WORK)") $(if $(ONLY),--only "$(ONLY)")

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	@touch $@

conformance: $(STAMP) ## the public tuf-conformance suite against the trust client (SUITE=<its checkout>; needs faketime)
	@test -d "$(SUITE)/tuf_conformance" || { echo "make conformance SUITE=<a checkout of github.com/theupdateframework/tuf-conformance>" >&2; exit 2; }
	@command -v faketime >/dev/null || { echo "the suite needs the program 'faketime' (Debian: apt install faketime)" >&2; exit 2; }
	test -x $(VENV)/conformance/bin/pytest || { $(PYTHON) -m venv $(VENV)/conformance && $(VENV)/conformance/bin/python -m pip install --quiet --disable-pip-version-check -e "$(SUITE)"; }
	cd "$(SUITE)" && "$(abspath $(VENV))/conformance/bin/pytest" tuf_conformance -q --entrypoint "$(abspath $(BIN))/python -m p2p.cli.tuf_shim"

clean: ## remove what the tasks made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis work-demo work-bench work-sim work-soak
