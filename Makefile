# make demo | test | lint | docs | bench — each creates .venv when it is missing.
#
# Another interpreter:    make test PYTHON=python3.12   (read only when .venv is created)
# More options:           make test ARGS="-k rank -x"   make demo ARGS=--quick

PYTHON  ?= python3
ARGS    ?=
WORKERS ?= 2
BENCH   ?= benchmarks.step_time

BIN     := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: demo test lint format docs bench clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/tensoradapt demo $(ARGS)

# One thread for each worker: two workers with two threads each are slower than one.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --benchmark-disable $(ARGS)

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.installed-docs
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

bench: .venv/.installed
	$(BIN)/python -m $(BENCH) $(ARGS)

clean:
	rm -rf .venv docs/_build build dist *.egg-info .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  "tensoradapt needs Python 3.11 to 3.13, but $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv

# The interpreter is an order-only prerequisite: it is a link whose date says nothing about .venv.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e ".[demo,dev]"
	@touch $@

.venv/.installed-docs: .venv/.installed
	$(INSTALL) -e ".[docs]"
	@touch $@
