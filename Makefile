# Every target does its own set-up (tools/setup_env.sh): a few seconds when it is done already.
SHELL := /bin/bash
# An active virtual environment, or an active one of conda's that is not its base; else our own.
ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
PYTHON := $(or $(ACTIVE),.venv)/bin/python

SEEDS ?= 1
DATA ?=
OUT ?= work_dirs/demo
TESTS ?= tests ops/tests

OUT3D ?= work_dirs/demo3d

.PHONY: help install install3d demo demo3d test lint bench docs clean

help:
	@echo "make demo           train a small detector and its energy head, refine, evaluate, draw"
	@echo "make demo SEEDS=3   the same over three seeds, with the spread"
	@echo "make demo DATA=dir  the same on your own folder in COCO format"
	@echo "make demo3d         the same in 3D: LiDAR-like scenes, oriented boxes (mmdet3d, 2 GB more)"
	@echo "make test           the whole test suite (TESTS=ops/tests for a part)"
	@echo "make lint           ruff: errors and formatting"
	@echo "make bench          the benchmarks of the operators and of refinement"
	@echo "make docs           the pages of docs/ as HTML, in build/docs"
	@echo "make install        only the set-up: virtual environment, dependencies, C++ operators"
	@echo "make install3d      the set-up with mmdet3d, as make test and make demo3d do it"
	@echo "make clean          remove what was built here (not .venv, not work_dirs)"

install:
	@tools/setup_env.sh

install3d:
	@tools/setup_env.sh --with-3d

demo: install
	$(PYTHON) tools/demo.py --seeds $(SEEDS) $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

demo3d: install3d
	$(PYTHON) tools/demo3d.py --seeds $(SEEDS) --out "$(OUT3D)"

test: install3d
	$(PYTHON) -m pytest --durations=15 $(TESTS)

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

bench: install3d
	@set -e; for script in ops/benchmarks/*.py benchmarks/[!_]*.py; do echo "== $$script"; $(PYTHON) "$$script"; done

docs: install
	$(PYTHON) -m pip install --quiet -c requirements/constraints.txt -r requirements/docs.txt
	$(PYTHON) -m sphinx -W --keep-going docs build/docs

clean:
	rm -rf build dist *.egg-info ops/build ops/dist ops/*.egg-info ebm_mmdet/.mim .pytest_cache .ruff_cache .hypothesis
	find ops -name '*.so' -delete
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -f $(dir $(PYTHON))../.ebm-mmdet-ready $(dir $(PYTHON))../.ebm-mmdet-3d-ready
