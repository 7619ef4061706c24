# Python 3.11 or newer; the first of these that runs, unless PYTHON names another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
PORT ?= 8000
# Test processes; pytest-xdist's "auto" counts the cores.
WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test contract services browser lint format types imports check bench bench-quick clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED)  ## make .venv with all that development needs

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: set PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: install  ## a site with demo data on http://127.0.0.1:$(PORT)/
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

browser: install  ## the tests in Chromium
	$(BIN)/python -m pytest -m browser

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

clean:  ## remove the environment and all caches; .env and the database stay
	rm -rf $(VENV) .ci/venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
