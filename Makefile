# Python 3.11 or newer; the first of these that runs, unless PYTHON names another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
PORT ?= 8000
# How much longer the tests of `make stress` run than in the suite.
STRESS ?= 10
# The ivs that `make stress` looks at.
IVS ?= 1000000
# Inputs for each target of `make fuzz`.
RUNS ?= 1000000
# The interpreters that a release is tried with.
PYTHONS ?= $(BIN)/python
# Test processes; pytest-xdist's "auto" counts the cores.
WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install mysql run test contract services recipes browser docs fuzz mutation stress lint format types imports check bench bench-quick compare release-check clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED)  ## make .venv with all that development needs

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: set PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

mysql: install  ## the driver for MariaDB, which needs its C library
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mysql]'

run: install  ## a site with demo data on http://127.0.0.1:$(PORT)/
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null \
		|| { echo "Port $(PORT) of 127.0.0.1 cannot be used; another is chosen by PORT=8080 make run" >&2; exit 1; }
	@$(BIN)/python -m dashtray.environment
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py demo
	@echo "Dashtray runs on http://127.0.0.1:$(PORT)/ until Ctrl-C."
	@exec $(BIN)/python manage.py runserver 127.0.0.1:$(PORT)

test: install  ## the whole suite on the database of DATABASE_URL, SQLite by default
	$(BIN)/python -m pytest -n $(WORKERS)

contract: install  ## the API against its OpenAPI document
	$(BIN)/python -m pytest -m contract

services: install  ## the tests against Prometheus and the message brokers
	$(BIN)/python -m pytest -m services

recipes: install  ## the ways from other packages, with these packages
	$(BIN)/python -m pytest -m recipes

browser: install  ## the tests in Chromium
	$(BIN)/python -m pytest -m browser

docs: $(VENV)/.docs  ## the documentation in site/; a warning, or a link that leads nowhere, is an error
	$(BIN)/python -m sphinx --builder html --conf-dir docs --doctree-dir site/.doctrees --fresh-env \
		--quiet --fail-on-warning --keep-going . site

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

fuzz: $(VENV)/.fuzz  ## RUNS made-up inputs for each fuzz target, a million by default
	$(BIN)/python -m fuzz parsers -runs=$(RUNS)
	$(BIN)/python -m fuzz decryption -runs=$(RUNS)

$(VENV)/.fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	@touch $@

mutation: $(VENV)/.mutation  ## change the code of MUTANTS, all of encryption/core by default, and see that a test fails
	$(BIN)/mutmut run --max-children $(WORKERS) $(MUTANTS) > /dev/null
	$(BIN)/python .ci/mutants.py

$(VENV)/.mutation: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mutation]'
	@touch $@

stress: install  ## the tests of concurrency, STRESS times as long, and IVS ivs
	IVS=$(IVS) STRESS=$(STRESS) $(BIN)/python -m pytest -s -p no:xdist \
		tests/encryption/core/test_ivs.py tests/encryption/test_concurrency.py
	STRESS=$(STRESS) $(BIN)/python -m pytest -s -m services tests/encryption/test_concurrency_servers.py

lint: install  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install  ## mypy
	$(BIN)/mypy

imports: install  ## the import contracts
	$(BIN)/lint-imports

check: lint types imports  ## all that needs no database: lint, types, imports, system checks, migrations
	$(BIN)/python -W error manage.py check --settings tests.settings --fail-level WARNING
	$(BIN)/python -W error manage.py makemigrations --settings tests.settings --check --dry-run

bench: install  ## measure everything
	$(BIN)/python -m benchmarks

bench-quick: install  ## the same with small numbers, to see that it runs
	$(BIN)/python -m benchmarks --quick

compare: install  ## ask other packages what they do, and write docs/comparison.md; CHECK=1 writes nothing
	$(BIN)/python -m benchmarks.comparison $(if $(CHECK),--check)

release-check: $(VENV)/.release  ## build the packages, check them, and use them in fresh environments of PYTHONS
	$(BIN)/python .ci/release.py $(PYTHONS)

$(VENV)/.release: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[release]'
	@touch $@

clean:  ## remove the environment and all caches; .env and the database stay
	rm -rf $(VENV) mutants .ci/venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist site
