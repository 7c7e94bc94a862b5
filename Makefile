# Everything runs in .venv, which is made on first use and brought up to date when its ingredients change.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PLUGINS := $(wildcard plugins/*/pyproject.toml)
STAMP := .venv/installed

# Sentences are separated by `|`.
SENTENCES ?= A warm and funny film that I would see again.|Two hours of my life that I will never get back.|The plot is thin, but the actors are a joy.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check docs clean

help:
	@echo "make demo    compress a real checkpoint on real text, then classify three sentences with it"
	@echo "             make demo SENTENCES='A joy.|Too long.|I liked it.' asks about yours"
	@echo "make test    all checks and all tests"
	@echo "make check   style, types, import contracts, reference docs"
	@echo "make docs    write docs/reference anew from the code"
	@echo "make clean   remove .venv, caches, built files and the demo"

# `value` hands the sentences over as typed, dollar signs and all.
demo: export DEMO_SENTENCES := $(value SENTENCES)
demo: $(STAMP)
	@scripts/demo.sh

test: check
	$(BIN)/pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/generate.py --check

docs: $(STAMP)
	$(BIN)/python docs/generate.py

# The build back end comes first and under the constraints too, because pip's isolated builds know none.
$(STAMP): pyproject.toml constraints.txt $(PLUGINS)
	@echo "Setting up .venv; the first time takes minutes ..." >&2
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]' $(patsubst %/pyproject.toml,-e ./%,$(PLUGINS))
	@touch $@

clean:
	rm -rf .venv demo dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
