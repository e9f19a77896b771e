# Every target does its own set-up (tools/setup_env.sh): a few seconds when it is done already.
SHELL := /bin/bash
PYTHON := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)/bin/python

SEEDS ?= 1
DATA ?=
OUT ?= work_dirs/demo
TESTS ?= tests

.PHONY: help install demo test lint bench clean

help:
	@echo "make demo           train a small detector and its energy head, refine, evaluate, draw"
	@echo "make demo SEEDS=3   the same over three seeds, with the spread"
	@echo "make demo DATA=dir  the same on your own folder in COCO format"
	@echo "make test           the whole test suite (TESTS=tests/ops for a part)"
	@echo "make lint           ruff: errors and formatting"
	@echo "make bench          the benchmarks of the operators and of refinement"
	@echo "make install        only the set-up: virtual environment, dependencies, C++ operators"
	@echo "make clean          remove what was built here (not .venv, not work_dirs)"

install:
	@tools/setup_env.sh

demo: install
	$(PYTHON) tools/demo.py --seeds $(SEEDS) $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

test: install
	$(PYTHON) -m pytest --durations=15 $(TESTS)

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

bench: install
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(PYTHON) "$$script"; done

clean:
	rm -rf build dist *.egg-info ebm_mmdet/.mim .pytest_cache .ruff_cache .hypothesis
	find ebm_ops -name '*.so' -delete
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -f $(dir $(PYTHON))../.ebm-mmdet-ready
