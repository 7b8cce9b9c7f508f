# Everything a person types, as one-word commands. Each sets up what it needs first; repeating that takes no time.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo own-shop django-shop test prove prove-long bench check format lock screenshots dist clean

BIN := .venv/bin
# The tools of .venv, and the browser that setup found, before those of the machine.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Extra arguments for `make demo`, `make test`, `make lock`: make demo ARGS=--once
ARGS ?=
# How many tests run at once; each worker has a PostgreSQL of its own.
JOBS ?= 2
# Random runs of the simulation in `make test`. `make prove` makes 20,000, and `make prove-long` a million.
TEST_SEEDS ?= 4000
# Hundreds of commands and planted bugs start here: what is compiled once is kept, whatever the machine says.
export PYTHONDONTWRITEBYTECODE :=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## prepare .venv to run the shop
	@scripts/setup.sh demo

setup-dev: ## prepare .venv and the browser for the tests
	@scripts/setup.sh dev

demo: setup ## start the shop with offline gateways (PORT=8000, ARGS=--once for a run without a browser)
	@$(BIN)/python -m paidonce demo $(ARGS)

own-shop: ## open the example of a FastAPI shop of its own (PORT=8100)
	@examples/own_shop/run

django-shop: ## open the example of a Django shop (PORT=8200)
	@examples/django_shop/run

# `check` has run these already.
ALREADY := --ignore tests/test_tidy.py
test: check ## check, then every test (ARGS="-k stripe" to choose) and, without ARGS, the simulation
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 40 $(ALREADY) $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m paidonce prove --seeds $(TEST_SEEDS) --mutants tests/mutants --jobs $(JOBS))

prove: setup-dev ## the simulation alone, with more seeds than in `make test`: faults, pairs, and every planted bug
	$(BIN)/python -m paidonce prove --mutants tests/mutants --jobs $(JOBS)

prove-long: setup-dev ## the same for hours, with PostgreSQL and SIGKILL; writes docs/prove-report.md
	$(BIN)/python scripts/prove_long.py

bench: setup-dev ## measure against a floor and another project (ARGS=--quick for a first look); docs/bench.md
	$(BIN)/python -m bench $(ARGS)

check: setup-dev ## ruff, mypy strict and the tidy tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_tidy.py

format: setup-dev ## write the code in the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: ## write requirements/*.txt anew (ARGS=--upgrade for newer versions)
	@scripts/lock.sh $(ARGS)

screenshots: setup-dev ## take the pictures in docs/images with the browser tests
	PAIDONCE_SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser -k screenshot

dist: setup-dev ## build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove what was built; the demo's data in var/ stays
	rm -rf examples/react/node_modules examples/react/dist
	rm -rf .venv .make dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis test-results
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
